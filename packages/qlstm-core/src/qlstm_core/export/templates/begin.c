/* $mark
   $title */

#include "$name.h"

#define QLSTM_ACTIVATION_BITS $activation_bits
#define QLSTM_GRU $gru
#define QLSTM_INPUTS $input_size
#define QLSTM_HIDDEN $hidden
#define QLSTM_FEATURES $features
#define QLSTM_LAYERS $layers
#define QLSTM_DIRECTIONS $directions

