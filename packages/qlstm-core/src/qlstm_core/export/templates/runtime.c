/* ------------------------------------------------------------------------------------------------------------
   The runtime, the same in every exported file. What the model is stands below it, as constants.

   A product of a weight of bits with a vector x: x is rounded to integers, x = scale * q. Columns are taken in
   groups of four; of G groups, group g is columns g, G + g, 2G + g and 3G + g. A table of 16 entries for each
   group holds the sums of those |q_i| whose sign agrees with the bits of its index, so that
   sum_i B_i q_i = 2 * entry - sum_i |q_i|, and four bits of the weight look up four products at once.
   ------------------------------------------------------------------------------------------------------------ */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "activations are rounded by adding and subtracting a constant, which -ffast-math leaves out"
#endif

/* A weight, (rows, cols). Its blocks are tiles of 64 lines, a line being a row of one plane; each tile has one
   block of 32 bytes for each group of columns. */
typedef struct {
    int32_t rows, cols, tiles, groups;
    int32_t sums;          /* sums for each row: one for each plane or pair of planes; 0: a weight of floats */
    int32_t pairing;       /* planes 2k and 2k + 1 are added, the second this many times; 0: they are not */
    int32_t shared;        /* how many neighbouring rows share a scale */
    const uint8_t *blocks; /* (tiles, groups, 32) */
    const float *scales;   /* (sums, rows / shared) */
    const float *offsets;  /* (rows), or NULL: added to every weight of a row */
    const float *weights;  /* in place of blocks, tiles of 64 rows, (cols, rows) each */
} qlstm_matrix;

/* One layer in one direction; its pre-activations are (groups, gates, units), groups * gates segments. */
typedef struct {
    int32_t groups, units, parts;          /* parts: vectors, each split into the groups, in the input */
    int32_t norm_ih, norm_hh, norm_cell;   /* QLSTM_NO_NORM, QLSTM_RMS or QLSTM_LAYER_NORM */
    float eps_ih, eps_hh, eps_cell;
    int32_t steps;                         /* steps that have factors and shifts of their own */
    const qlstm_matrix *inner_ih, *inner_hh;    /* of low rank, before the outer ones; or NULL */
    const qlstm_matrix *outer_ih, *outer_hh;    /* one for each group */
    const qlstm_matrix *projection;             /* or NULL */
    const float *factor_ih, *factor_hh;    /* (steps, segments, units), or NULL for ones */
    const float *shift;                    /* (steps, segments, units) */
    const float *new_shift;                /* (steps, units): of a GRU, inside the reset gate's product */
    const float *factor_cell, *shift_cell; /* (steps, groups, units): of a normalised cell state, or NULL */
} qlstm_cell;

/* Room to compute in; nothing in it is kept from one step to the next. */
typedef struct {
    float *vector;         /* what a matrix is multiplied with, zeros behind it */
    uint16_t *tables;      /* (groups, 16) */
    float *low_rank;
    float *input_side, *recurrent_side;
    float *raw;            /* the hidden state before its projection */
} qlstm_room;

#define QLSTM_LINES 64
#define QLSTM_BLOCK 32
#define QLSTM_RUN 16 /* neighbouring rows of one plane */

enum { QLSTM_NO_NORM = 0, QLSTM_RMS = 1, QLSTM_LAYER_NORM = 2 };

/* ---- Vectors of bytes, where the compiler is told that the processor has them ---- */

#if defined(__AVX2__) && !defined(QLSTM_SCALAR)

#include <immintrin.h>

#define QLSTM_LANES 32
typedef __m256i qlstm_bytes;
typedef __m256i qlstm_words;

static inline qlstm_bytes qlstm_no_bytes(void) { return _mm256_setzero_si256(); }
static inline qlstm_words qlstm_no_words(void) { return _mm256_setzero_si256(); }
static inline qlstm_bytes qlstm_load(const uint8_t *at)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)at);
}
static inline qlstm_bytes qlstm_load_table(const uint8_t *at)
{
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)at));
}
static inline qlstm_bytes qlstm_low(qlstm_bytes bits) { return _mm256_and_si256(bits, _mm256_set1_epi8(15)); }
static inline qlstm_bytes qlstm_high(qlstm_bytes bits) { return qlstm_low(_mm256_srli_epi16(bits, 4)); }
static inline qlstm_bytes qlstm_look_up(qlstm_bytes table, qlstm_bytes index)
{
    return _mm256_shuffle_epi8(table, index);
}
static inline qlstm_bytes qlstm_add(qlstm_bytes a, qlstm_bytes b) { return _mm256_add_epi8(a, b); }
static inline qlstm_words qlstm_add_words(qlstm_words sum, qlstm_bytes pairs) { return _mm256_add_epi16(sum, pairs); }
static inline qlstm_words qlstm_add_odd(qlstm_words sum, qlstm_bytes pairs)
{
    return _mm256_add_epi16(sum, _mm256_srli_epi16(pairs, 8));
}
static inline void qlstm_store(uint16_t *at, qlstm_words words) { _mm256_storeu_si256((__m256i *)(void *)at, words); }

#elif defined(__aarch64__) && defined(__ARM_NEON) && !defined(__AARCH64EB__) && !defined(QLSTM_SCALAR)

#include <arm_neon.h>

#define QLSTM_LANES 16
typedef uint8x16_t qlstm_bytes;
typedef uint16x8_t qlstm_words;

static inline qlstm_bytes qlstm_no_bytes(void) { return vdupq_n_u8(0); }
static inline qlstm_words qlstm_no_words(void) { return vdupq_n_u16(0); }
static inline qlstm_bytes qlstm_load(const uint8_t *at) { return vld1q_u8(at); }
static inline qlstm_bytes qlstm_load_table(const uint8_t *at) { return vld1q_u8(at); }
static inline qlstm_bytes qlstm_low(qlstm_bytes bits) { return vandq_u8(bits, vdupq_n_u8(15)); }
static inline qlstm_bytes qlstm_high(qlstm_bytes bits) { return vshrq_n_u8(bits, 4); }
static inline qlstm_bytes qlstm_look_up(qlstm_bytes table, qlstm_bytes index) { return vqtbl1q_u8(table, index); }
static inline qlstm_bytes qlstm_add(qlstm_bytes a, qlstm_bytes b) { return vaddq_u8(a, b); }
static inline qlstm_words qlstm_add_words(qlstm_words sum, qlstm_bytes pairs)
{
    return vaddq_u16(sum, vreinterpretq_u16_u8(pairs));
}
static inline qlstm_words qlstm_add_odd(qlstm_words sum, qlstm_bytes pairs)
{
    return vsraq_n_u16(sum, vreinterpretq_u16_u8(pairs), 8);
}
static inline void qlstm_store(uint16_t *at, qlstm_words words) { vst1q_u16(at, words); }

#elif defined(__wasm_simd128__) && !defined(QLSTM_SCALAR)

#include <wasm_simd128.h>

#define QLSTM_LANES 16
typedef v128_t qlstm_bytes;
typedef v128_t qlstm_words;

static inline qlstm_bytes qlstm_no_bytes(void) { return wasm_i8x16_splat(0); }
static inline qlstm_words qlstm_no_words(void) { return wasm_i16x8_splat(0); }
static inline qlstm_bytes qlstm_load(const uint8_t *at) { return wasm_v128_load(at); }
static inline qlstm_bytes qlstm_load_table(const uint8_t *at) { return wasm_v128_load(at); }
static inline qlstm_bytes qlstm_low(qlstm_bytes bits) { return wasm_v128_and(bits, wasm_i8x16_splat(15)); }
static inline qlstm_bytes qlstm_high(qlstm_bytes bits) { return wasm_u8x16_shr(bits, 4); }
static inline qlstm_bytes qlstm_look_up(qlstm_bytes table, qlstm_bytes index)
{
    return wasm_i8x16_swizzle(table, index);
}
static inline qlstm_bytes qlstm_add(qlstm_bytes a, qlstm_bytes b) { return wasm_i8x16_add(a, b); }
static inline qlstm_words qlstm_add_words(qlstm_words sum, qlstm_bytes pairs) { return wasm_i16x8_add(sum, pairs); }
static inline qlstm_words qlstm_add_odd(qlstm_words sum, qlstm_bytes pairs)
{
    return wasm_i16x8_add(sum, wasm_u16x8_shr(pairs, 8));
}
static inline void qlstm_store(uint16_t *at, qlstm_words words) { wasm_v128_store(at, words); }

#else

#define QLSTM_LANES 0

#endif

/* ---- Products with bits, in integers: the same on every processor ---- */

#define QLSTM_LARGEST_ENTRY ((INT32_C(1) << QLSTM_ACTIVATION_BITS) - 1)
#define QLSTM_PLANES (QLSTM_ACTIVATION_BITS == 8 ? 1 : 2)         /* tables of bytes for each group */
#define QLSTM_WIDTH (QLSTM_ACTIVATION_BITS == 12 ? 6 : 8)         /* bits of an entry in each of them */
#define QLSTM_AS_BYTES (QLSTM_ACTIVATION_BITS == 12 ? 4 : 1)      /* look-ups that a byte can hold */
#define QLSTM_AS_WORDS 256                                        /* groups that 16 bits can hold */

static inline int32_t qlstm_bits_of(float value)
{
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float qlstm_float_of(int32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Write one table: the entry of index n is base plus those of the four codes whose bit in n is set, mod 2^16. */
static void qlstm_write_table(uint16_t base, const uint16_t codes[4], int32_t group, int32_t groups, uint16_t *tables)
{
    uint16_t entries[16];
    entries[0] = base;
    for (int i = 0; i < 4; i++)
        for (int n = 0; n < 1 << i; n++)
            entries[n + (1 << i)] = (uint16_t)(entries[n] + codes[i]);
#if QLSTM_LANES
    uint8_t *bytes = (uint8_t *)tables + 16 * group;
    for (int n = 0; n < 16; n++) {
        bytes[n] = (uint8_t)(entries[n] & ((1 << QLSTM_WIDTH) - 1));
        if (QLSTM_PLANES == 2)
            bytes[16 * groups + n] = (uint8_t)(entries[n] >> QLSTM_WIDTH);
    }
#else
    (void)groups;
    memcpy(tables + 16 * group, entries, sizeof entries);
#endif
}

/* Round a vector to integers and fill its tables. Returns the scale: 0 below a largest sum of 1e-30, NaN where
   a number is not finite. */
static float qlstm_fill_tables(const float *x, int32_t groups, uint16_t *tables, int32_t *norm, int32_t *total)
{
    /* Adding 1.5 * 2^23 rounds a float to the nearest integer, which then stands in its low bits. */
    const float rounder = 12582912.0f;
    const float largest = (float)(QLSTM_LARGEST_ENTRY - 2);
    int32_t peak_bits = 0;
    *norm = *total = 0;
    for (int32_t g = 0; g < groups; g++) {
        float magnitude = 0.0f;
        for (int32_t i = 0; i < 4; i++)
            magnitude += fabsf(x[i * groups + g]);
        /* As integers, the bits of magnitudes are in the order of the magnitudes, infinity and NaN last. */
        const int32_t bits = qlstm_bits_of(fabsf(magnitude));
        peak_bits = bits > peak_bits ? bits : peak_bits;
    }
    const float peak = qlstm_float_of(peak_bits);
    if (!(peak >= 1e-30f && peak < INFINITY)) {
        memset(tables, 0, sizeof *tables * 16 * (size_t)groups);
        return peak < 1e-30f ? 0.0f : NAN;
    }
    const float inverse = largest / peak;
    for (int32_t g = 0; g < groups; g++) {
        int32_t negative = 0, own = 0;
        uint16_t codes[4];
        for (int32_t i = 0; i < 4; i++) {
            const float scaled = x[i * groups + g] * inverse;
            const float rounded = scaled + rounder;
            const int32_t q = qlstm_bits_of(rounded) - 0x4B400000;
            codes[i] = (uint16_t)q;
            negative += q < 0 ? -q : 0;
            own += q;
        }
        qlstm_write_table((uint16_t)negative, codes, g, groups, tables);
        *norm += own + 2 * negative;
        *total += own;
    }
    return peak / largest;
}

#if QLSTM_LANES

static void qlstm_drain(qlstm_words sum, qlstm_words odd, int shift, uint32_t *found)
{
    uint16_t sums[QLSTM_LANES / 2], odds[QLSTM_LANES / 2];
    qlstm_store(sums, sum);
    qlstm_store(odds, odd);
    for (int j = 0; j < QLSTM_LANES / 2; j++) {
        found[2 * j] += (uint32_t)(uint16_t)(sums[j] - 256 * odds[j]) << shift;
        found[2 * j + 1] += (uint32_t)odds[j] << shift;
    }
}

static void qlstm_add_plane(const uint8_t *blocks, int32_t groups, const uint8_t *tables, int shift, uint32_t *found)
{
    for (int part = 0; part < QLSTM_BLOCK; part += QLSTM_LANES) {
        for (int32_t start = 0; start < groups; start += QLSTM_AS_WORDS) {
            const int32_t end = groups - start < QLSTM_AS_WORDS ? groups : start + QLSTM_AS_WORDS;
            qlstm_words low_sum = qlstm_no_words(), low_odd = qlstm_no_words();
            qlstm_words high_sum = qlstm_no_words(), high_odd = qlstm_no_words();
            for (int32_t g = start; g < end; g += QLSTM_AS_BYTES) {
                qlstm_bytes low = qlstm_no_bytes(), high = qlstm_no_bytes();
                for (int32_t k = g; k < g + QLSTM_AS_BYTES; k++) {
                    const qlstm_bytes table = qlstm_load_table(tables + 16 * k);
                    const qlstm_bytes bits = qlstm_load(blocks + QLSTM_BLOCK * k + part);
                    low = qlstm_add(low, qlstm_look_up(table, qlstm_low(bits)));
                    high = qlstm_add(high, qlstm_look_up(table, qlstm_high(bits)));
                }
                /* The sum of pairs of bytes, less 256 times that of the odd bytes, is that of the even ones. */
                low_sum = qlstm_add_words(low_sum, low);
                low_odd = qlstm_add_odd(low_odd, low);
                high_sum = qlstm_add_words(high_sum, high);
                high_odd = qlstm_add_odd(high_odd, high);
            }
            qlstm_drain(low_sum, low_odd, shift, found + part);
            qlstm_drain(high_sum, high_odd, shift, found + QLSTM_BLOCK + part);
        }
    }
}

#endif

/* Write the sums of the entries that one tile looks up: found[b] by the low nibbles of bytes b, found[32 + b] by
   the high ones. */
static void qlstm_look_up_tile(const uint8_t *blocks, int32_t groups, const uint16_t *tables, uint32_t *found)
{
    memset(found, 0, sizeof *found * QLSTM_LINES);
#if QLSTM_LANES
    const uint8_t *bytes = (const uint8_t *)tables;
    qlstm_add_plane(blocks, groups, bytes, 0, found);
    if (QLSTM_PLANES == 2)
        qlstm_add_plane(blocks, groups, bytes + 16 * groups, QLSTM_WIDTH, found);
#else
    for (int32_t g = 0; g < groups; g++, blocks += QLSTM_BLOCK, tables += 16) {
        for (int b = 0; b < QLSTM_BLOCK; b++) {
            found[b] += tables[blocks[b] & 15];
            found[QLSTM_BLOCK + b] += tables[blocks[b] >> 4];
        }
    }
#endif
}

/* Write a tile's sums: sum_i B_i q_i of each of 64 lines; with pairing, of each of 32 pairs of planes. */
static void qlstm_multiply_tile(const qlstm_matrix *m, int32_t tile, const uint16_t *tables, int32_t norm, int32_t *sums)
{
    uint32_t found[QLSTM_LINES];
    const uint32_t pairing = (uint32_t)m->pairing, less = (1 + pairing) * (uint32_t)norm;
    qlstm_look_up_tile(m->blocks + QLSTM_BLOCK * m->groups * tile, m->groups, tables, found);
    for (int half = 0; half < 2; half++) {
        for (int j = 0; j < QLSTM_RUN; j++) {
            const uint32_t even = 2 * found[QLSTM_BLOCK * half + 2 * j];
            const uint32_t odd = 2 * found[QLSTM_BLOCK * half + 2 * j + 1];
            if (pairing) {
                sums[QLSTM_RUN * half + j] = (int32_t)(even + pairing * odd - less);
            } else {
                sums[2 * QLSTM_RUN * half + j] = (int32_t)(even - less);
                sums[2 * QLSTM_RUN * half + QLSTM_RUN + j] = (int32_t)(odd - less);
            }
        }
    }
}

/* Write what qlstm_multiply_tile would for a vector that is 1 in one column and 0 elsewhere. */
static void qlstm_column_of_tile(const qlstm_matrix *m, int32_t tile, int32_t column, int32_t *sums)
{
    const uint8_t *block = m->blocks + QLSTM_BLOCK * (m->groups * tile + column % m->groups);
    for (int half = 0; half < 2; half++) {
        const int shift = (int)(column / m->groups) + 4 * half;
        for (int j = 0; j < QLSTM_RUN; j++) {
            const int32_t even = 2 * (block[2 * j] >> shift & 1) - 1;
            const int32_t odd = 2 * (block[2 * j + 1] >> shift & 1) - 1;
            if (m->pairing) {
                sums[QLSTM_RUN * half + j] = even + m->pairing * odd;
            } else {
                sums[2 * QLSTM_RUN * half + j] = even;
                sums[2 * QLSTM_RUN * half + QLSTM_RUN + j] = odd;
            }
        }
    }
}

/* Add a tile's sums to the rows they belong to: out = scale * (sum_k scales_k * sums_k). */
static void qlstm_rescale_tile(const qlstm_matrix *m, int32_t tile, const int32_t *sums, float scale, float *out)
{
    const int32_t runs = m->pairing ? 2 : 4, kept = m->rows / m->shared;
    for (int32_t run = runs * tile; run < runs * (tile + 1); run++, sums += QLSTM_RUN) {
        /* The runs of a tile go through the planes, then through the rows. */
        const int32_t plane = run % m->sums, first = QLSTM_RUN * (run / m->sums);
        const float *scales = m->scales + kept * plane;
        const int32_t last = m->rows - first < QLSTM_RUN ? m->rows : first + QLSTM_RUN;
        for (int32_t row = first; row < last;) {
            const int32_t segment = m->shared == 1 ? row : row / m->shared;
            const int32_t end = (segment + 1) * m->shared < last ? (segment + 1) * m->shared : last;
            for (; row < end; row++) {
                const float own = scale * (scales[segment] * (float)sums[row - first]);
                out[row] = plane ? out[row] + own : own;
            }
        }
    }
}

static void qlstm_add_offsets(const qlstm_matrix *m, float whole, float *out)
{
    if (m->offsets)
        for (int32_t row = 0; row < m->rows; row++)
            out[row] += m->offsets[row] * whole;
}

/* ---- Products of one side of a cell ---- */

/* Number of rows of the tile of floats that begins at row `first`. */
static int32_t qlstm_rows_of(const qlstm_matrix *m, int32_t first)
{
    return m->rows - first < QLSTM_LINES ? m->rows - first : QLSTM_LINES;
}

static void qlstm_multiply_floats(const qlstm_matrix *m, const float *x, float *out)
{
    const float *weights = m->weights;
    for (int32_t first = 0; first < m->rows; first += QLSTM_LINES) {
        const int32_t rows = qlstm_rows_of(m, first);
        float sums[QLSTM_LINES] = {0.0f};
        for (int32_t k = 0; k < m->cols; k++, weights += rows)
            for (int32_t j = 0; j < rows; j++)
                sums[j] += weights[j] * x[k];
        memcpy(out + first, sums, sizeof *sums * (size_t)rows);
    }
}

/* out = W x, of the features of x that belong to group `index` of `count`: `parts` vectors of `size` features
   in all, each split into the groups, stand one after the other in x. */
static void qlstm_multiply(const qlstm_matrix *m, const float *x, int32_t size, int32_t index, int32_t count,
                           int32_t parts, const qlstm_room *room, float *out)
{
    const int32_t whole = size / parts, own = whole / count;
    for (int32_t part = 0; part < parts; part++)
        memcpy(room->vector + part * own, x + part * whole + index * own, sizeof *x * (size_t)own);
    if (!m->sums) {
        qlstm_multiply_floats(m, room->vector, out);
        return;
    }
    int32_t norm, total;
    memset(room->vector + m->cols, 0, sizeof *x * (size_t)(4 * m->groups - m->cols));
    const float scale = qlstm_fill_tables(room->vector, m->groups, room->tables, &norm, &total);
    for (int32_t tile = 0; tile < m->tiles; tile++) {
        int32_t sums[QLSTM_LINES];
        qlstm_multiply_tile(m, tile, room->tables, norm, sums);
        qlstm_rescale_tile(m, tile, sums, scale, out);
    }
    qlstm_add_offsets(m, scale * (float)total, out);
}

/* out = column `token` of W */
static void qlstm_column(const qlstm_matrix *m, int32_t token, float *out)
{
    if (!m->sums) {
        for (int32_t first = 0; first < m->rows; first += QLSTM_LINES) {
            const int32_t rows = qlstm_rows_of(m, first);
            memcpy(out + first, m->weights + m->cols * first + rows * token, sizeof *out * (size_t)rows);
        }
        return;
    }
    for (int32_t tile = 0; tile < m->tiles; tile++) {
        int32_t sums[QLSTM_LINES];
        qlstm_column_of_tile(m, tile, token, sums);
        qlstm_rescale_tile(m, tile, sums, 1.0f, out);
    }
    qlstm_add_offsets(m, 1.0f, out);
}

/* out = W x of all groups of one side; where x is NULL, of the one-hot vector that `token` stands for. */
static void qlstm_side(const qlstm_matrix *inner, const qlstm_matrix *outer, int32_t groups, int32_t parts,
                       const float *x, int32_t size, int32_t token, const qlstm_room *room, float *out)
{
    if (inner) {
        if (x)
            qlstm_multiply(inner, x, size, 0, 1, 1, room, room->low_rank);
        else
            qlstm_column(inner, token, room->low_rank);
        qlstm_multiply(outer, room->low_rank, inner->rows, 0, 1, 1, room, out);
    } else if (x) {
        for (int32_t index = 0; index < groups; index++)
            qlstm_multiply(outer + index, x, size, index, groups, parts, room, out + index * outer->rows);
    } else {
        const int32_t index = token / outer->cols; /* a one-hot vector is zero in every group but its own */
        if (groups > 1)
            memset(out, 0, sizeof *out * (size_t)(groups * outer->rows));
        qlstm_column(outer + index, token % outer->cols, out + index * outer->rows);
    }
}

/* ---- Normalisation ---- */

/* The sum of x - origin, or of its squares, in 16 partial sums. */
static float qlstm_sum(const float *x, int32_t count, float origin, int squared)
{
    float sums[16] = {0.0f}, sum = 0.0f;
    for (int32_t j = 0; j < count; j += 16)
        for (int32_t k = 0; k < 16 && j + k < count; k++) {
            const float own = x[j + k] - origin;
            sums[k] += squared ? own * own : own;
        }
    for (int k = 0; k < 16; k++)
        sum += sums[k];
    return sum;
}

/* The mean, 0 without centring, and 1/sqrt(v + eps). */
static float qlstm_moments(const float *x, int32_t count, int32_t norm, float eps, float *scale)
{
    float mean = 0.0f;
    *scale = 1.0f;
    if (norm == QLSTM_LAYER_NORM) /* around the first element: the mean of a constant row is exact */
        mean = x[0] + qlstm_sum(x, count, x[0], 0) / (float)count;
    if (norm != QLSTM_NO_NORM)
        *scale = 1.0f / sqrtf(qlstm_sum(x, count, mean, 1) / (float)count + eps);
    return mean;
}

static void qlstm_standardize(float *x, int32_t segments, int32_t units, int32_t norm, float eps)
{
    if (norm == QLSTM_NO_NORM)
        return;
    for (int32_t s = 0; s < segments; s++, x += units) {
        float scale;
        const float mean = qlstm_moments(x, units, norm, eps, &scale);
        for (int32_t j = 0; j < units; j++)
            x[j] = (x[j] - mean) * scale;
    }
}

/* ---- Gates ---- */

/* x where `is` is 0, else bound: without a branch, so that loops around it can become vector code. */
static inline float qlstm_bound_if(int is, float bound, float x)
{
    const int32_t mask = -(int32_t)is;
    return qlstm_float_of((qlstm_bits_of(bound) & mask) | (qlstm_bits_of(x) & ~mask));
}

/* x between two bounds; NaN stays. */
static inline float qlstm_clamp(float x, float least, float most)
{
    return qlstm_bound_if(x < least, least, qlstm_bound_if(x > most, most, x));
}

/* e^x between -87 and 88, beyond which it stays as it is there; NaN gives NaN. Relative error below 2e-7. */
static inline float qlstm_exp(float x)
{
    x = qlstm_clamp(x, -87.0f, 88.0f);
    /* e^x = 2^n e^r, |r| <= ln(2)/2: n, the nearest integer of x/ln 2, in the low bits of a float of 1.5 * 2^23 */
    const float scaled = x * 1.44269504f;
    const float rounded = scaled + 12582912.0f;
    const float n = rounded - 12582912.0f;
    const float r = x - n * 0.693145751953125f - n * 1.428606820309417e-06f;
    /* The polynomial of Cephes' expf (Moshier). */
    float p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const uint32_t power = ((uint32_t)qlstm_bits_of(rounded) + 127u) << 23;
    return (p * (r * r) + r + 1.0f) * qlstm_float_of((int32_t)power);
}

/* 1 + e^-x, of which the logistic function is the reciprocal; x counts as -30 at least. */
static inline float qlstm_denominator(float x)
{
    return qlstm_exp(qlstm_bound_if(x < -30.0f, 30.0f, -x)) + 1.0f;
}

/* p and q with p/q = tanh x: the rational function of Eigen's ptanh. Relative error below 4e-7. */
static inline float qlstm_tanh_ratio(float x, float *q)
{
    x = qlstm_clamp(x, -7.90531110763549805f, 7.90531110763549805f);
    const float s = x * x;
    float p = s * -2.76076847742355e-16f + 2.00018790482477e-13f;
    p = p * s + -8.60467152213735e-11f;
    p = p * s + 5.12229709037114e-08f;
    p = p * s + 1.48572235717979e-05f;
    p = p * s + 6.37261928875436e-04f;
    p = p * s + 4.89352455891786e-03f;
    *q = s * 1.19825839466702e-06f + 1.18534705686654e-04f;
    *q = *q * s + 2.26843463243900e-03f;
    *q = *q * s + 4.89352518554385e-03f;
    return x * p;
}

static void qlstm_scale(const float *restrict factor, int32_t count, float *restrict x)
{
    for (int32_t j = 0; j < count; j++)
        x[j] *= factor[j];
}

static void qlstm_shift(const float *restrict shift, int32_t count, float *restrict x)
{
    for (int32_t j = 0; j < count; j++)
        x[j] += shift[j];
}

/* The pre-activations that both sides make together, in the input side's place; of a GRU's last gate the two sides
   stay apart. */
static void qlstm_add_sides(const qlstm_cell *cell, int32_t step, float *restrict x, float *restrict p)
{
    const int32_t units = cell->units, count = (QLSTM_GRU ? 3 : 4) * cell->groups * units;
    if (cell->factor_ih)
        qlstm_scale(cell->factor_ih + step * count, count, x);
    if (cell->factor_hh)
        qlstm_scale(cell->factor_hh + step * count, count, p);
    const int32_t added = QLSTM_GRU ? 2 * units : count;
    for (int32_t j = 0; j < added; j++)
        x[j] += p[j];
    qlstm_shift(cell->shift + step * count, count, x);
    if (QLSTM_GRU)
        qlstm_shift(cell->new_shift + step * units, units, p + added);
}

/* Write the new cell state, and into h what sigma(o) is the reciprocal of; z is (4, units). */
static void qlstm_new_cell_state(const float *restrict z, int32_t units, float *restrict h, float *restrict c)
{
    for (int32_t j = 0; j < units; j++) {
        float under;
        const float i = qlstm_denominator(z[j]);
        const float f = qlstm_denominator(z[units + j]);
        const float g = qlstm_tanh_ratio(z[2 * units + j], &under);
        const float inner = i * under;
        c[j] = (c[j] * inner + f * g) / (f * inner);
        h[j] = qlstm_denominator(z[3 * units + j]);
    }
}

/* h = sigma(o) tanh(c) */
static void qlstm_new_hidden_state(const float *restrict c, int32_t units, float *restrict h)
{
    for (int32_t j = 0; j < units; j++) {
        float under;
        const float squashed = qlstm_tanh_ratio(c[j], &under);
        h[j] = squashed / (h[j] * under);
    }
}

static void qlstm_lstm_gates(const qlstm_cell *cell, int32_t step, float *z, float *h, float *c)
{
    const int32_t units = cell->units;
    for (int32_t group = 0; group < cell->groups; group++, h += units, c += units, z += 4 * units) {
        qlstm_new_cell_state(z, units, h, c);
        if (cell->factor_cell) {
            const int32_t at = (step * cell->groups + group) * units;
            memcpy(z, c, sizeof *c * (size_t)units);
            qlstm_standardize(z, 1, units, cell->norm_cell, cell->eps_cell);
            qlstm_scale(cell->factor_cell + at, units, z);
            qlstm_shift(cell->shift_cell + at, units, z);
        }
        qlstm_new_hidden_state(cell->factor_cell ? z : c, units, h);
    }
}

/* x and p are (3, units), both sides in one but for the last gate. */
static void qlstm_gru_gates(const float *restrict x, const float *restrict p, int32_t units, float *restrict h)
{
    for (int32_t j = 0; j < units; j++) {
        float under;
        const float reset = 1.0f / (qlstm_exp(-x[j]) + 1.0f);
        const float update = qlstm_denominator(x[units + j]);
        const float new = qlstm_tanh_ratio(x[2 * units + j] + reset * p[2 * units + j], &under);
        h[j] = ((update - 1.0f) * new + h[j] * under) / (update * under);
    }
}

/* ---- Layers over time ---- */

/* One step of one layer in one direction: h (output size) and c (hidden size) become the new state. */
static void qlstm_run_cell(const qlstm_cell *cell, const float *x, int32_t size, int32_t token, int32_t step,
                           const qlstm_room *room, float *h, float *c)
{
    const int32_t segments = cell->groups * (QLSTM_GRU ? 3 : 4), hidden = cell->groups * cell->units;
    const int32_t at = step < cell->steps ? step : cell->steps - 1;
    float *raw = cell->projection ? room->raw : h;
    qlstm_side(cell->inner_ih, cell->outer_ih, cell->groups, cell->parts, x, size, token, room, room->input_side);
    qlstm_standardize(room->input_side, segments, cell->units, cell->norm_ih, cell->eps_ih);
    qlstm_side(cell->inner_hh, cell->outer_hh, cell->groups, 1, h, QLSTM_FEATURES, 0, room, room->recurrent_side);
    qlstm_standardize(room->recurrent_side, segments, cell->units, cell->norm_hh, cell->eps_hh);
    qlstm_add_sides(cell, at, room->input_side, room->recurrent_side);
    if (QLSTM_GRU)
        qlstm_gru_gates(room->input_side, room->recurrent_side, cell->units, raw);
    else
        qlstm_lstm_gates(cell, at, room->input_side, raw, c);
    if (cell->projection)
        qlstm_multiply(cell->projection, raw, hidden, 0, 1, 1, room, h);
}

static int32_t qlstm_later(int32_t steps, int32_t more)
{
    return steps > INT32_MAX - more ? INT32_MAX : steps + more;
}

/* One layer in one direction over a whole sequence; where x is NULL, of tokens. Rows of y are `width` apart. */
static void qlstm_run_layer(const qlstm_cell *cell, const float *x, int32_t size, const int32_t *tokens, int32_t count,
                            int reverse, int32_t step, const qlstm_room *room, float *h, float *c, float *y)
{
    const size_t width = QLSTM_DIRECTIONS * QLSTM_FEATURES;
    for (int32_t k = 0; k < count; k++) {
        const size_t t = (size_t)(reverse ? count - 1 - k : k);
        qlstm_run_cell(cell, x ? x + t * (size_t)size : NULL, size, x ? 0 : tokens[t], qlstm_later(step, k), room, h, c);
        memcpy(y + t * width, h, sizeof *h * QLSTM_FEATURES);
    }
}

/* Layer by layer over a whole sequence; outputs between the layers take turns in y and between, so that those of
   the last are in y. */
static void qlstm_run_layers(const qlstm_cell *cells, const float *x, const int32_t *tokens, int32_t count,
                             int32_t step, const qlstm_room *room, float *h, float *c, float *y, float *between)
{
    int32_t size = QLSTM_INPUTS;
    for (int32_t layer = 0; layer < QLSTM_LAYERS; layer++) {
        float *above = (QLSTM_LAYERS - 1 - layer) % 2 ? between : y;
        for (int32_t direction = 0; direction < QLSTM_DIRECTIONS; direction++) {
            const int32_t k = layer * QLSTM_DIRECTIONS + direction;
            qlstm_run_layer(cells + k, x, size, tokens, count, direction, step, room, h + k * QLSTM_FEATURES,
                            QLSTM_GRU ? NULL : c + k * QLSTM_HIDDEN, above + direction * QLSTM_FEATURES);
        }
        x = above;
        size = QLSTM_DIRECTIONS * QLSTM_FEATURES;
    }
}

/* One step of a network that reads in one direction. */
static void qlstm_run_step(const qlstm_cell *cells, const float *x, int32_t token, int32_t step,
                           const qlstm_room *room, float *h, float *c)
{
    int32_t size = QLSTM_INPUTS;
    for (int32_t k = 0; k < QLSTM_LAYERS; k++, h += QLSTM_FEATURES) {
        qlstm_run_cell(cells + k, x, size, token, step, room, h, QLSTM_GRU ? NULL : c + k * QLSTM_HIDDEN);
        x = h;
        size = QLSTM_FEATURES;
    }
}
