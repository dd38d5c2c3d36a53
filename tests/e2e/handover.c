/* Watches the hand-over between two processes from outside, and strikes at one of its steps.
 *
 * To be preloaded (LD_PRELOAD). A step is one successful sendmsg or recvmsg on the hand-over's socket, told
 * from all others by being a Unix stream socket without a name at either end; who made it is the predecessor,
 * who did not is the successor. Each step is appended to the file $HANDOVER_STEPS as "SIDE CALL". The file
 * $HANDOVER_PLAN, read again at each step, has lines
 *
 *     SIDE send|recv N SIGNAL    that side gets the signal right after its Nth such step
 *     SIDE thread N COUNT        its attempts to start a thread fail, from the Nth on, COUNT times
 *
 * If there is a directory $HANDOVER_RECORD, what each side sends is appended to the file of its name there.
 *
 * Frames that are sent together go one by one, as if the socket had taken no more: each is a step of its own.
 *
 * Steps are counted from the beginning of an upgrade, threads of a predecessor too, and those of a successor
 * from its start.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { SEND, RECV, THREAD, CALLS };
static const char *const names[CALLS] = {"send", "recv", "thread"};

static int ours = -1;
static int counts[2][CALLS];

static int nameless(int fd)
{
    struct sockaddr_un name;
    socklen_t length = sizeof name;
    int type = 0;
    socklen_t size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) || type != SOCK_STREAM)
        return 0;
    if (getsockname(fd, (struct sockaddr *)&name, &length) || name.sun_family != AF_UNIX
        || length > offsetof(struct sockaddr_un, sun_path))
        return 0;
    /* A client of a Unix socket has no name either, but it knows that of its server. */
    length = sizeof name;
    return getpeername(fd, (struct sockaddr *)&name, &length) != 0
        || length <= offsetof(struct sockaddr_un, sun_path);
}

/* The second number in the plan for this call if it is due, otherwise -1. */
static int due(int predecessor, int call, int range)
{
    int count = __atomic_add_fetch(&counts[predecessor][call], 1, __ATOMIC_SEQ_CST);
    const char *side = predecessor ? "predecessor" : "successor";
    const char *path = getenv("HANDOVER_PLAN");
    FILE *plan = path ? fopen(path, "re") : NULL;
    int found = -1;
    if (plan) {
        char who[16], what[16];
        int nth, number;
        while (fscanf(plan, "%15s %15s %d %d", who, what, &nth, &number) == 4)
            if (!strcmp(who, side) && !strcmp(what, names[call]) && count >= nth && count < nth + (range ? number : 1))
                found = number;
        fclose(plan);
    }
    return found;
}

static void step(int fd, int call)
{
    int saved = errno, predecessor = fd == ours, number;
    const char *path = getenv("HANDOVER_STEPS");
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666) : -1;
    if (file >= 0) {
        dprintf(file, "%s %s\n", predecessor ? "predecessor" : "successor", names[call]);
        close(file);
    }
    number = due(predecessor, call, 0);
    if (number >= 0)
        /* To this thread, which does nothing more then; any other would have to hear of it first. */
        raise(number);
    errno = saved;
}

static void record(int fd, const struct msghdr *message, ssize_t sent)
{
    int saved = errno, file = -1;
    const char *directory = getenv("HANDOVER_RECORD");
    char path[4096];
    if (directory && !access(directory, W_OK)) {
        snprintf(path, sizeof path, "%s/%s", directory, fd == ours ? "predecessor" : "successor");
        file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    }
    if (file >= 0) {
        if (write(file, message->msg_iov[0].iov_base, sent) != sent)
            unlink(path);
        close(file);
    }
    errno = saved;
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    ssize_t (*next)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");
    if (!nameless(fd))
        return next(fd, message, flags);
    struct msghdr first = *message;
    if (first.msg_iovlen > 1)
        first.msg_iovlen = 1;
    ssize_t sent = next(fd, &first, flags);
    if (sent > 0) {
        record(fd, &first, sent);
        step(fd, SEND);
    }
    return sent;
}

ssize_t recvmsg(int fd, struct msghdr *message, int flags)
{
    ssize_t (*next)(int, struct msghdr *, int) = dlsym(RTLD_NEXT, "recvmsg");
    ssize_t received = next(fd, message, flags);
    if (received > 0 && nameless(fd))
        step(fd, RECV);
    return received;
}

int socketpair(int domain, int type, int protocol, int fds[2])
{
    int (*next)(int, int, int, int[2]) = dlsym(RTLD_NEXT, "socketpair");
    int outcome = next(domain, type, protocol, fds);
    if (outcome == 0 && domain == AF_UNIX && (type & 0xf) == SOCK_STREAM) {
        ours = fds[0];
        memset(counts[1], 0, sizeof counts[1]);
    }
    return outcome;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = dlsym(RTLD_NEXT, "pthread_create");
    int predecessor = ours >= 0 || !getenv("PG_DOORMAN_HANDOVER_FD");
    if (due(predecessor, THREAD, 1) >= 0)
        return EAGAIN;
    return next(thread, attributes, start, argument);
}
