
/* ---- What the header declares ---- */

#if ${upper}_EXPORT != $digest
#error "$name.h and $name.c come from different exports"
#endif

typedef char qlstm_state_has_the_stated_size[sizeof(${name}_state) == ${upper}_STATE_BYTES ? 1 : -1];

static qlstm_room qlstm_room_of(${name}_state *state)
{
    const qlstm_room room = {
$members
    };
    return room;
}

static int qlstm_is_token(int32_t token)
{
    return token >= 0 && token < QLSTM_INPUTS;
}

static void qlstm_process(${name}_state *state, const float *x, const int32_t *tokens, int32_t steps, float *y,
                          float *between)
{
    const qlstm_room room = qlstm_room_of(state);
    float *h = state->h[0], *c = $c;
    if (steps <= 0)
        return;
    if (QLSTM_DIRECTIONS == 1) {
        for (int32_t t = 0; t < steps; t++, y += QLSTM_FEATURES) {
            qlstm_run_step(qlstm_cells, x, x ? 0 : tokens[t], qlstm_later(state->steps, t), &room, h, c);
            memcpy(y, state->h[QLSTM_LAYERS - 1], sizeof *y * QLSTM_FEATURES);
            x = x ? x + QLSTM_INPUTS : NULL;
        }
    } else {
        qlstm_run_layers(qlstm_cells, x, tokens, steps, state->steps, &room, h, c, y, between);
    }
    state->steps = qlstm_later(state->steps, steps);
}

void ${name}_init(${name}_state *state)
{
    memset(state, 0, sizeof *state);
}

void ${name}_sequence(${name}_state *state, const float *x, int32_t steps, float *y, float *between)
{
    qlstm_process(state, x, NULL, steps, y, between);
}

int ${name}_sequence_tokens(${name}_state *state, const int32_t *tokens, int32_t steps, float *y, float *between)
{
    for (int32_t t = 0; t < steps; t++)
        if (!qlstm_is_token(tokens[t]))
            return 1;
    qlstm_process(state, NULL, tokens, steps, y, between);
    return 0;
}

#if ${upper}_DIRECTIONS == 1

void ${name}_step(${name}_state *state, const float *x, float *y)
{
    qlstm_process(state, x, NULL, 1, y, NULL);
}

int ${name}_step_token(${name}_state *state, int32_t token, float *y)
{
    return ${name}_sequence_tokens(state, &token, 1, y, NULL);
}

#endif
