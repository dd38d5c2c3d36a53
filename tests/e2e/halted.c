/* Stops `pg_doorman upgrade` at one point of its way, so that a whole upgrade fits in there.
 *
 * To be preloaded (LD_PRELOAD). $HALTED_BEFORE is what the process is stopped (SIGSTOP) before the first time
 * it does it: a directory that it opens, or "signal" for sending one through a pidfd.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

static void before(const char *what)
{
    static int halted;
    const char *where = getenv("HALTED_BEFORE");
    if (where && !strcmp(where, what) && !__atomic_exchange_n(&halted, 1, __ATOMIC_SEQ_CST))
        raise(SIGSTOP);
}

DIR *opendir(const char *name)
{
    DIR *(*next)(const char *) = dlsym(RTLD_NEXT, "opendir");
    before(name);
    return next(name);
}

long syscall(long number, ...)
{
    long (*next)(long, ...) = dlsym(RTLD_NEXT, "syscall");
    long arguments[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        arguments[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_pidfd_send_signal)
        before("signal");
    return next(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
}
