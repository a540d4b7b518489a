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
/* Threads that wait, spinning, for the rows of the next step while a run goes on, and sleep between runs. */
#include <pthread.h>
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t opened = PTHREAD_COND_INITIALIZER;
static int workers, running, turn, finished, step_rows;
static void (*step)(int from, int to, int thread);

static void share(int thread)
{
    const int from = (int)((long)step_rows * thread / BINAS_THREADS);
    const int to = (int)((long)step_rows * (thread + 1) / BINAS_THREADS);
    if (from < to)
        step(from, to, thread);
}

static void *worker(void *number)
{
    const int thread = *(const int *)number;
    int seen = 0;
    for (;;) {
        if (__atomic_load_n(&turn, __ATOMIC_ACQUIRE) != seen) {
            seen++;
            share(thread);
            __atomic_add_fetch(&finished, 1, __ATOMIC_ACQ_REL);
        } else if (!__atomic_load_n(&running, __ATOMIC_ACQUIRE)) {
            pthread_mutex_lock(&gate);
            while (!running)
                pthread_cond_wait(&opened, &gate);
            pthread_mutex_unlock(&gate);
        }
    }
    return NULL;
}

UNUSED static void begin_threads(void)
{
    static int numbers[BINAS_THREADS];
    pthread_mutex_lock(&gate);
    __atomic_store_n(&running, 1, __ATOMIC_RELEASE);
    while (workers < BINAS_THREADS - 1) {
        pthread_t id;
        numbers[workers] = workers + 1;
        if (pthread_create(&id, NULL, worker, &numbers[workers]) != 0)
            break;
        pthread_detach(id);
        workers++;
    }
    pthread_cond_broadcast(&opened);
    pthread_mutex_unlock(&gate);
}

UNUSED static void end_threads(void)
{
    pthread_mutex_lock(&gate);
    __atomic_store_n(&running, 0, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&gate);
}

UNUSED static void in_threads(void (*g)(int, int, int), int rows)
{
    int t;
    step = g;
    step_rows = rows;
    if (rows == 1) {
        g(0, 1, 0);
        return;
    }
    __atomic_store_n(&finished, 0, __ATOMIC_RELAXED);
    __atomic_add_fetch(&turn, 1, __ATOMIC_ACQ_REL);
    share(0);
    for (t = workers + 1; t < BINAS_THREADS; t++) /* threads that could not be made */
        share(t);
    while (__atomic_load_n(&finished, __ATOMIC_ACQUIRE) != workers)
        ;
}
#define BEGIN_THREADS begin_threads();
#define END_THREADS end_threads();
#define RUN_ALL(g, rows) in_threads(g, rows)
#else
#define BEGIN_THREADS
#define END_THREADS
#define RUN_ALL(g, rows) g(0, rows, 0)
#endif
#define RUN_ONE(g, rows) g(0, rows, 0)
#ifdef BINAS_PROFILE
#define RUN(g, rows, how)                                                                                \
    do {                                                                                                 \
        const double begun = now();                                                                      \
        how(g, rows);                                                                                    \
        times[at++] += now() - begun;                                                                    \
    } while (0)
#else
#define RUN(g, rows, how) how(g, rows)
#endif

void @NAME@_run(const float *image, float *scores)
{
#ifdef BINAS_PROFILE
    int at = 0;
#endif
    memcpy(B_input, image, sizeof(float) * @INPUTS@);
@BEGIN@@CALLS@
@END@    memcpy(scores, @RESULT@, sizeof(float) * @OUTPUTS@);
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
