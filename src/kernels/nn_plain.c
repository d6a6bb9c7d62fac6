/* The plain twins of the transformer kernels, in float and in double from one source. */
#include "darkfield/kernels.h"

#include <math.h>

#define REAL float
#define PLAIN(name) name##_plain
#define EXP expf
#define LOG logf
#define SQRT sqrtf
#define TANH tanhf
#define ERFC erfcf
#include "nn_plain.h"
#undef REAL
#undef PLAIN
#undef EXP
#undef LOG
#undef SQRT
#undef TANH
#undef ERFC

#define REAL double
#define PLAIN(name) name##_plain_double
#define EXP exp
#define LOG log
#define SQRT sqrt
#define TANH tanh
#define ERFC erfc
#include "nn_plain.h"
