/* $mark
   $title */

#ifndef ${upper}_H
#define ${upper}_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ${upper}_INPUT_SIZE $input_size /* features of x; or the number of tokens, from 0 */
#define ${upper}_OUTPUT_SIZE $output_size /* features of y */
#define ${upper}_DIRECTIONS $directions
#define ${upper}_BETWEEN $between /* floats for each step that ${name}_sequence needs between layers */
#define ${upper}_CONSTANT_BYTES $constant_bytes /* weights and other constants, without code */
#define ${upper}_STATE_BYTES $state_bytes /* of a ${name}_state */
#define ${upper}_STACK_BYTES $stack_bytes /* more than any call takes of the stack */
#define ${upper}_EXPORT $digest /* tells whether header and source are of one export */

/* The state of one stream of steps. Streams are independent: one each for two threads, and a copy by assignment
   goes on by itself. */
typedef struct {
    float h[$cells][$features]; /* hidden state, $order */
$cell_state    int32_t steps; /* how many have been processed */
    struct { /* room to compute in: what is in it does not matter between two calls */
$room
    } room;
} ${name}_state;

/* Begin a stream: a state of zeros. To begin elsewhere, set $states afterwards. */
void ${name}_init(${name}_state *state);

#if ${upper}_DIRECTIONS == 1

/* Process one step: x has input size features, y output size, written. */
void ${name}_step(${name}_state *state, const float *x, float *y);

/* The same of a token in place of a one-hot vector. Returns 0; or 1, having done nothing, where it is outside 0
   to input size - 1. */
int ${name}_step_token(${name}_state *state, int32_t token, float *y);

#endif

/* Process `steps` steps that follow those before: x is (steps, input size), y (steps, output size), written.
   `between` has room for steps * ${upper}_BETWEEN floats; NULL where that is 0. */
void ${name}_sequence(${name}_state *state, const float *x, int32_t steps, float *y, float *between);

/* The same of tokens in place of one-hot vectors. Returns 0; or 1, having done nothing, where a token is
   outside 0 to input size - 1. */
int ${name}_sequence_tokens(${name}_state *state, const int32_t *tokens, int32_t steps, float *y, float *between);

#ifdef __cplusplus
}
#endif

#endif
