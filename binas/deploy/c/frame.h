/* @NAME@: a binary neural network as a C99 program. */
#ifndef @UPPER@_H
#define @UPPER@_H

#include <stdint.h>

#define @UPPER@_HEIGHT @HEIGHT@
#define @UPPER@_WIDTH @WIDTH@
#define @UPPER@_CHANNELS @CHANNELS@
#define @UPPER@_CLASSES @OUTPUTS@
#define @UPPER@_ARENA_BYTES @ARENA@

#ifdef __cplusplus
extern "C" {
#endif

/* image: @HEIGHT@ rows of @WIDTH@ pixels of @CHANNELS@ numbers, normalised; scores: one for each class. */
void @NAME@_run(const float *image, float *scores);

/* The instruction set that it was compiled for. */
const char *@NAME@_isa(void);

/* With BINAS_PROFILE: seconds that each step has taken since the last call of it; their number. */
int @NAME@_times(double *seconds);

/* With BINAS_KEEP_SUMS: the integers of the binary convolutions, in order. */
const int32_t *@NAME@_sums(int layer);

#ifdef __cplusplus
}
#endif
#endif
