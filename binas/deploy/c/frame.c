#include "@NAME@.h"

@KERNELS@
#ifndef BINAS_THREADS
#define BINAS_THREADS 1
#endif

static union {
    double aligned;
    uint64_t word;
    unsigned char bytes[@ARENA@];
} arena;
static union {
    double aligned;
    uint64_t word;
    unsigned char bytes[BINAS_THREADS][@SCRATCH@];
} scratch;

#ifdef BINAS_KEEP_SUMS
@SUMS@
#define KEEP(where, acc, row, channels, width, oy)                                                       \
    for (p = 0; p < (width); p++)                                                                        \
        memcpy(where + ((oy) * (width) + p) * (channels), acc + p * (row), sizeof(int32_t) * (channels));
#else
#define KEEP(where, acc, row, channels, width, oy)
#endif

@BLOCKS@

@CONSTANTS@

@GROUPS@

#ifdef BINAS_PROFILE
#include <time.h>
static double times[@NUM_GROUPS@ + 1];
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
#endif

#if BINAS_THREADS > 1
#include "binas_threads.h"
#define RUN_ALL(g, rows) in_threads(g, rows)
#else
#define RUN_ALL(g, rows) g(0, rows, 0)
#endif
#ifdef BINAS_PROFILE
#define RUN(g, rows)                                                                                     \
    do {                                                                                                 \
        const double begun = now();                                                                      \
        RUN_ALL(g, rows);                                                                                \
        times[at++] += now() - begun;                                                                    \
    } while (0)
#else
#define RUN(g, rows) RUN_ALL(g, rows)
#endif

void @NAME@_run(const float *image, float *scores)
{
#ifdef BINAS_PROFILE
    int at = 0;
#endif
    memcpy(B_input, image, sizeof(float) * @INPUTS@);
@CALLS@
    memcpy(scores, @RESULT@, sizeof(float) * @OUTPUTS@);
}

const char *@NAME@_isa(void)
{
    return ISA;
}

int @NAME@_times(double *seconds)
{
#ifdef BINAS_PROFILE
    memcpy(seconds, times, sizeof(double) * @NUM_GROUPS@);
    memset(times, 0, sizeof(times));
    return @NUM_GROUPS@;
#else
    (void)seconds;
    return 0;
#endif
}

const int32_t *@NAME@_sums(int layer)
{
#ifdef BINAS_KEEP_SUMS
    switch (layer) {
@SUM_TABLE@    default: return NULL;
    }
#else
    (void)layer;
    return NULL;
#endif
}
