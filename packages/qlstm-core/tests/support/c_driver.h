/* A program around one exported file, which it includes: MODEL is the name, UPPER the same in capitals.
   Commands come through the standard input, results go to the standard output, both in the machine's bytes. */

#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>

#define JOINED(a, b) a##b
#define JOIN(a, b) JOINED(a, b)
#define OF(suffix) JOIN(MODEL, suffix)
#define SIZE(suffix) ((size_t)JOIN(UPPER, suffix))

enum { SIZES, STEP, STEP_TOKEN, SEQUENCE, SEQUENCE_TOKENS, MULTIPLY };

static void *take(size_t count)
{
    void *bytes = malloc(count ? count : 1);
    if (!bytes || fread(bytes, 1, count, stdin) != count)
        exit(3);
    return bytes;
}

static void give(const void *bytes, size_t count)
{
    if (fwrite(bytes, 1, count, stdout) != count)
        exit(4);
}

static void sizes(void)
{
    const int32_t found[] = {(int32_t)sizeof(OF(_state)), (int32_t)(sizeof qlstm_blocks + sizeof qlstm_numbers),
                             (int32_t)SIZE(_CONSTANT_BYTES), (int32_t)SIZE(_STACK_BYTES), QLSTM_LANES};
    give(found, sizeof found);
}

/* In: state, number of steps, input. Out: what the calls returned, outputs, state, floating-point exceptions. */
static void process(int32_t command)
{
    OF(_state) *state = malloc(sizeof *state);
    memset(state, 0xA5, sizeof *state); /* whatever was there before */
    OF(_init)(state);
    float *h = take(sizeof state->h);
    memcpy(state->h, h, sizeof state->h);
#if !QLSTM_GRU
    float *c = take(sizeof state->c);
    memcpy(state->c, c, sizeof state->c);
    free(c);
#endif
    int32_t *given = take(2 * sizeof *given);
    const int32_t steps = given[1];
    state->steps = given[0];
    const int tokens = command == STEP_TOKEN || command == SEQUENCE_TOKENS;
    void *input = take(4 * (size_t)steps * (tokens ? 1 : SIZE(_INPUT_SIZE)));
    float *y = calloc((size_t)steps, sizeof *y * SIZE(_OUTPUT_SIZE));
    float *between = SIZE(_BETWEEN) ? malloc(sizeof *between * SIZE(_BETWEEN) * (size_t)steps) : NULL;
    int32_t wrong = 0;
    feclearexcept(FE_ALL_EXCEPT);
    if (command == SEQUENCE)
        OF(_sequence)(state, input, steps, y, between);
    if (command == SEQUENCE_TOKENS)
        wrong = OF(_sequence_tokens)(state, input, steps, y, between);
#if QLSTM_DIRECTIONS == 1
    if (command == STEP || command == STEP_TOKEN)
        for (size_t t = 0; t < (size_t)steps; t++) {
            /* A stream goes on from a copy of its state. */
            OF(_state) copy = *state;
            memset(state, 0x5A, sizeof *state);
            *state = copy;
            if (tokens)
                wrong += OF(_step_token)(state, ((int32_t *)input)[t], y + t * SIZE(_OUTPUT_SIZE));
            else
                OF(_step)(state, (float *)input + t * SIZE(_INPUT_SIZE), y + t * SIZE(_OUTPUT_SIZE));
        }
#endif
#ifdef FE_INVALID
    const int32_t raised = fetestexcept(FE_DIVBYZERO | FE_INVALID | FE_OVERFLOW);
#else
    const int32_t raised = 0; /* WebAssembly tells of none */
#endif
    give(&wrong, sizeof wrong);
    give(&raised, sizeof raised);
    give(&state->steps, sizeof state->steps);
    give(y, sizeof *y * (size_t)steps * SIZE(_OUTPUT_SIZE));
    give(state->h, sizeof state->h);
#if !QLSTM_GRU
    give(state->c, sizeof state->c);
#endif
    free(state), free(h), free(given), free(input), free(y), free(between);
}

/* In: number of a matrix, and a vector with zeros behind it. Out: scale, sum of magnitudes, sum, and the sums of
   all lines. */
static void multiply(void)
{
    int32_t *number = take(sizeof *number);
    const qlstm_matrix *m = qlstm_matrices + *number;
    float *x = take(sizeof *x * 4 * (size_t)m->groups);
    uint16_t *tables = malloc(sizeof *tables * 16 * (size_t)m->groups);
    int32_t norm, total, sums[QLSTM_LINES];
    const float scale = qlstm_fill_tables(x, m->groups, tables, &norm, &total);
    give(&scale, sizeof scale);
    give(&norm, sizeof norm);
    give(&total, sizeof total);
    for (int32_t tile = 0; tile < m->tiles; tile++) {
        qlstm_multiply_tile(m, tile, tables, norm, sums);
        give(sums, sizeof *sums * (m->pairing ? QLSTM_LINES / 2 : QLSTM_LINES));
    }
    free(number), free(x), free(tables);
}

void OF(_run)(void);
void OF(_run)(void)
{
    int32_t *command = take(sizeof *command);
    if (*command == SIZES)
        sizes();
    else if (*command == MULTIPLY)
        multiply();
    else
        process(*command);
    free(command);
}
