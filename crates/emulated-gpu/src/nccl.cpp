// The functions of NCCL that Lockstep calls. Members are processes of this host, which pass floats through
// sockets. A group of transfers is put into the stream when its status is asked for, and each attempt of
// the stream's work moves some bytes. A member whose process has ended is an error; a frozen member is
// waited for. Memory that a transfer will write is filled with NaN first. A member that finalizes sends each
// other member one byte, after all floats.
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "driver.hpp"

enum Status { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_USAGE = 5, REMOTE_ERROR = 6, IN_PROGRESS = 7 };

const int FLOAT = 7;
const unsigned MAGIC = 0xcafebeef;

struct Id {
    char text[128];
};
struct Config {
    size_t size;
    unsigned magic, version;
    int blocking;
};

// Bytes from or to another member.
struct Transfer {
    int peer;
    char *place;
    size_t bytes, done;
    bool goes;
};

struct Communicator {
    std::string name;
    int members, me, listener = -1, status = IN_PROGRESS;
    std::vector<int> sockets;
    bool is_aborted = false, is_leaving = false;
    // The other members that have finalized.
    std::vector<bool> leaving;
    // Begun by a group, and not yet in the stream.
    std::vector<Transfer> begun;
    void *stream = nullptr;
    bool was_looked_after = false;

    int fail(int with) { return status = with; }
    int address(int member, sockaddr_un *address) const {
        memset(address, 0, sizeof *address);
        address->sun_family = AF_UNIX;
        // The name begins with a zero byte (an abstract socket), so no file is left behind.
        int length = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "emulated-nccl-%s-%d",
                              name.c_str(), member);
        return (int)offsetof(sockaddr_un, sun_path) + 1 + length;
    }
    void close_all() {
        for (int socket : sockets)
            if (socket >= 0) close(socket);
        if (listener >= 0) close(listener);
        sockets.assign(members, -1);
        listener = -1;
    }
};

static std::map<Communicator *, std::shared_ptr<Communicator>> communicators;

struct Part {
    Communicator *communicator;
    Transfer transfer;
    void *stream;
};
static thread_local std::vector<Part> group;

// Connects to the members before this one, and accepts the members after it, without waiting for any of
// them.
static int join(Communicator &c) {
    sockaddr_un address;
    if (c.listener < 0) {
        c.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        int length = c.address(c.me, &address);
        if (bind(c.listener, (sockaddr *)&address, length) || listen(c.listener, c.members)) return c.fail(SYSTEM_ERROR);
    }
    for (int peer = 0; peer < c.me; peer++) {
        if (c.sockets[peer] >= 0) continue;
        int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), length = c.address(peer, &address);
        if (connect(made, (sockaddr *)&address, length) ||
            send(made, &c.me, sizeof c.me, MSG_NOSIGNAL) != sizeof c.me) {
            close(made);
            return IN_PROGRESS;
        }
        c.sockets[peer] = made;
    }
    for (int made; (made = accept4(c.listener, nullptr, nullptr, SOCK_CLOEXEC)) >= 0;) {
        int peer = -1;
        if (recv(made, &peer, sizeof peer, MSG_WAITALL) == sizeof peer && peer > c.me && peer < c.members)
            c.sockets[peer] = made;
        else close(made);
    }
    for (int peer = 0; peer < c.members; peer++)
        if (peer != c.me && c.sockets[peer] < 0) return IN_PROGRESS;
    return c.status = SUCCESS;
}

// Sends and receives the bytes for which the sockets are ready; returns whether all transfers are done.
// After a failure it never returns true.
static bool pass(Communicator &c, std::vector<Transfer> &transfers) {
    if (c.is_aborted) return true;
    if (c.status != SUCCESS) return false;
    // Of several transfers with one peer in one direction, each must be done before the next begins.
    std::set<std::pair<int, bool>> busy;
    for (Transfer &t : transfers) {
        if (t.done == t.bytes || !busy.insert({t.peer, t.goes}).second) continue;
        char *place = t.place + t.done;
        size_t left = t.bytes - t.done;
        ssize_t passed = t.goes ? send(c.sockets[t.peer], place, left, MSG_DONTWAIT | MSG_NOSIGNAL)
                                : recv(c.sockets[t.peer], place, left, MSG_DONTWAIT);
        if (passed > 0) t.done += passed;
        else if (passed == 0 || (errno != EAGAIN && errno != EINTR)) c.fail(REMOTE_ERROR);
    }
    for (Transfer &t : transfers)
        if (t.done < t.bytes) return false;
    return true;
}

// Receives the bytes of members that finalize. SUCCESS means that all members have finalized.
static int leave(Communicator &c) {
    bool are_all = true;
    for (int peer = 0; peer < c.members; peer++) {
        if (peer == c.me || c.leaving[peer]) continue;
        char mark;
        ssize_t heard = recv(c.sockets[peer], &mark, sizeof mark, MSG_DONTWAIT);
        if (heard == 0 || (heard < 0 && errno != EAGAIN && errno != EINTR)) return c.fail(REMOTE_ERROR);
        c.leaving[peer] = heard == sizeof mark;
        are_all = are_all && c.leaving[peer];
    }
    return are_all ? SUCCESS : IN_PROGRESS;
}

static int put(const std::shared_ptr<Communicator> &c) {
    auto transfers = std::make_shared<std::vector<Transfer>>(std::move(c->begun));
    c->begun.clear();
    bool is_first = true;
    Attempt attempt = [=]() mutable {
        if (is_first)
            for (Transfer &t : *transfers)
                if (!t.goes) memset(t.place, 0xff, t.bytes);
        is_first = false;
        return pass(*c, *transfers);
    };
    return emulated_put(c->stream, &attempt) == 0 ? SUCCESS : INVALID_USAGE;
}

#define API extern "C" __attribute__((visibility("default"))) int
#define ENTER() \
    if (int failed = emulated_enter(__func__)) return failed

extern "C" __attribute__((visibility("default"))) const char *ncclGetErrorString(int status) {
    static thread_local char text[64];
    snprintf(text, sizeof text, "emulated NCCL error %d", status);
    return text;
}
API ncclGetUniqueId(Id *id) {
    ENTER();
    static int made = 0;
    timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    memset(id, 0, sizeof *id);
    snprintf(id->text, sizeof id->text, "%d-%lx-%lx-%d", getpid(), (long)now.tv_sec, now.tv_nsec, ++made);
    return SUCCESS;
}
API ncclCommInitRankConfig(Communicator **made, int members, Id id, int me, Config *config) {
    ENTER();
    if (config->magic != MAGIC || config->blocking || me < 0 || me >= members) return INVALID_USAGE;
    if (!emulated_has_context()) return INVALID_USAGE;
    auto c = std::make_shared<Communicator>();
    c->name = std::string(id.text, strnlen(id.text, 64));
    c->members = members;
    c->me = me;
    c->sockets.assign(members, -1);
    c->leaving.assign(members, false);
    communicators[c.get()] = c;
    *made = c.get();
    return IN_PROGRESS;
}
API ncclCommGetAsyncError(Communicator *handle, int *status) {
    ENTER();
    auto found = communicators.find(handle);
    if (found == communicators.end()) return INVALID_USAGE;
    auto c = found->second;
    *status = c->status == IN_PROGRESS ? join(*c) : c->status;
    if (c->is_leaving && *status == SUCCESS) *status = leave(*c);
    if (*status != SUCCESS || c->begun.empty()) return SUCCESS;
    // The first call after a group always finds it in progress.
    if (!c->was_looked_after) *status = IN_PROGRESS;
    else *status = put(c);
    c->was_looked_after = true;
    return SUCCESS;
}
API ncclGroupStart() {
    ENTER();
    group.clear();
    return SUCCESS;
}
API ncclGroupEnd() {
    ENTER();
    for (Part &part : group) {
        Communicator *c = part.communicator;
        if (!communicators.count(c) || c->status != SUCCESS) return INVALID_USAGE;
        c->begun.push_back(part.transfer);
        c->stream = part.stream;
        c->was_looked_after = false;
    }
    group.clear();
    return IN_PROGRESS;
}
static int add(void *place, size_t floats, int kind, int peer, Communicator *c, void *stream, bool goes) {
    size_t bytes = floats * sizeof(float);
    if (kind != FLOAT || !communicators.count(c) || peer < 0 || peer >= c->members) return INVALID_USAGE;
    if (!emulated_is_there(place, bytes)) return INVALID_USAGE;
    group.push_back({c, {peer, (char *)place, bytes, 0, goes}, stream});
    return SUCCESS;
}
API ncclSend(const void *place, size_t floats, int kind, int peer, Communicator *c, void *stream) {
    ENTER();
    return add((void *)place, floats, kind, peer, c, stream, true);
}
API ncclRecv(void *place, size_t floats, int kind, int peer, Communicator *c, void *stream) {
    ENTER();
    return add(place, floats, kind, peer, c, stream, false);
}
API ncclCommFinalize(Communicator *handle) {
    ENTER();
    auto found = communicators.find(handle);
    if (found == communicators.end()) return INVALID_USAGE;
    auto c = found->second;
    if (c->status != SUCCESS || c->is_leaving || !c->begun.empty()) return INVALID_USAGE;
    c->is_leaving = true;
    char mark = 0;
    // A member whose process has ended is noticed in `leave`.
    for (int socket : c->sockets)
        if (socket >= 0) (void)!send(socket, &mark, sizeof mark, MSG_NOSIGNAL);
    return IN_PROGRESS;
}
// Frees a communicator that all members have left. For any other communicator the call fails here.
API ncclCommDestroy(Communicator *handle) {
    ENTER();
    auto found = communicators.find(handle);
    if (found == communicators.end() || !found->second->is_leaving) return INVALID_USAGE;
    if (leave(*found->second) != SUCCESS) return INVALID_USAGE;
    found->second->close_all();
    communicators.erase(found);
    return SUCCESS;
}
API ncclCommAbort(Communicator *handle) {
    // The call is counted. An abort cannot fail.
    (void)emulated_enter(__func__);
    auto found = communicators.find(handle);
    if (found == communicators.end()) return INVALID_USAGE;
    found->second->is_aborted = true;
    found->second->close_all();
    communicators.erase(found);
    return SUCCESS;
}
