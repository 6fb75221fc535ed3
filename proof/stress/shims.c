/* What ThreadSanitizer cannot see of a standard library that is not instrumented, told to it. Linked by `run thread` only, with --wrap for each function
   here, so that every call from instrumented code comes through. The names of std's functions depend on the compiler, so `run` passes them with -D.

   Each function says no more than what the real one does: a lock that was taken in std's own code is acquired, one that is released there while a
   condition variable waits is released first. Nothing is suppressed. */

#include <stdbool.h>
#include <stdint.h>

void __tsan_acquire(void *address);
void __tsan_release(void *address);

#define JOINED(a, b) a##b
#define JOIN(a, b) JOINED(a, b)
#define WRAP(name) JOIN(__wrap_, name)
#define REAL(name) JOIN(__real_, name)

/* Mutex::lock where somebody has it: the fast path and every release are inlined, and instrumented. */
void REAL(LOCK_CONTENDED)(void *mutex);
void WRAP(LOCK_CONTENDED)(void *mutex) {
    REAL(LOCK_CONTENDED)(mutex);
    __tsan_acquire(mutex);
}

void REAL(READ_CONTENDED)(void *lock);
void WRAP(READ_CONTENDED)(void *lock) {
    REAL(READ_CONTENDED)(lock);
    __tsan_acquire(lock);
}

void REAL(WRITE_CONTENDED)(void *lock);
void WRAP(WRITE_CONTENDED)(void *lock) {
    REAL(WRITE_CONTENDED)(lock);
    __tsan_acquire(lock);
}

/* Condvar::wait and wait_timeout: they release the lock, and take it again. */
void REAL(CONDVAR_WAIT)(void *condvar, void *mutex);
void WRAP(CONDVAR_WAIT)(void *condvar, void *mutex) {
    __tsan_release(mutex);
    REAL(CONDVAR_WAIT)(condvar, mutex);
    __tsan_acquire(mutex);
}

bool REAL(CONDVAR_WAIT_TIMEOUT)(void *condvar, void *mutex, uint64_t seconds, uint32_t nanoseconds);
bool WRAP(CONDVAR_WAIT_TIMEOUT)(void *condvar, void *mutex, uint64_t seconds, uint32_t nanoseconds) {
    __tsan_release(mutex);
    bool in_time = REAL(CONDVAR_WAIT_TIMEOUT)(condvar, mutex, seconds, nanoseconds);
    __tsan_acquire(mutex);
    return in_time;
}

/* Arc counts down with a release, and whoever comes to 0 runs an acquire fence, which ThreadSanitizer does not see. A count-down that acquires, too, is
   the same for the last one. Nothing else in the process counts down with a release. */
enum { RELEASE = 3, ACQUIRE_AND_RELEASE = 4 };
uint64_t __real___tsan_atomic64_fetch_sub(volatile uint64_t *address, uint64_t n, int order);
uint64_t __wrap___tsan_atomic64_fetch_sub(volatile uint64_t *address, uint64_t n, int order) {
    return __real___tsan_atomic64_fetch_sub(address, n, order == RELEASE ? ACQUIRE_AND_RELEASE : order);
}
