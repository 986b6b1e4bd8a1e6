// The functions of the CUDA driver that Lockstep calls. New memory is filled with NaN. Queued work runs
// only when the caller waits for it, so a caller that does not wait reads NaN. README.md lists the
// environment variables that choose orders, sizes and failures.
#include <fcntl.h>
#include <sched.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "driver.hpp"
#include "kernels.hpp"

typedef std::function<void()> Work;

enum Status {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    DEVICE_UNAVAILABLE = 46,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    UNSUPPORTED_PTX_VERSION = 222,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    CAPTURE_INVALIDATED = 901,
};

struct Graph {
    std::vector<Work> work;
};
struct Stream {
    std::deque<Attempt> queue;
    Graph *capturing = nullptr;
};

// A point in a stream's queue.
struct Event {
    Stream *stream = nullptr;
    bool is_past = true, has_time = false;
    std::chrono::steady_clock::time_point time;
};

// How long work waits for another process.
static const std::chrono::seconds PATIENCE(60);

struct Driver {
    std::recursive_mutex lock;
    std::map<std::string, int> calls;
    int failed = SUCCESS;
    std::map<char *, size_t> device, host;
    std::multiset<const void *> sources;  // Host memory that queued copies have not read yet.
    size_t used = 0;
    std::set<Stream *> streams;
    std::set<Graph *> graphs;
    size_t bytes_in = 0, bytes_out = 0;
    ~Driver() {
        const char *path = getenv("EMULATED_GPU_COUNTS");
        FILE *file = path ? fopen(path, "w") : nullptr;
        if (!file) return;
        fprintf(file, "%zu bytes to the GPU\n%zu bytes from the GPU\n", bytes_in, bytes_out);
        for (const auto &[function, count] : calls) fprintf(file, "%d %s\n", count, function.c_str());
        fclose(file);
    }
};
static Driver driver;
static thread_local void *current;

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

static std::string text(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static long version() { return number("EMULATED_GPU_VERSION", 13000); }

// The GPU that a word of CUDA_VISIBLE_DEVICES names: by an index, or by the beginning of one GPU's
// name. Negative if the word names no GPU.
static long named(const std::string &word) {
    long count = number("EMULATED_GPU_COUNT", 1), found = -1;
    char *end = nullptr;
    long index = strtol(word.c_str(), &end, 10);
    if (!word.empty() && !*end) return index < count ? index : -1;
    std::string kind = text("EMULATED_GPU_MIG").empty() ? "GPU-" : "MIG-";
    for (long i = 0; i < count && word.size() > kind.size(); i++) {
        std::string name = kind + std::to_string(i) + "0000000-0000-0000-0000-000000000000";
        if (name.compare(0, word.size(), word) != 0) continue;
        if (found >= 0) return -1;
        found = i;
    }
    return found;
}

// The GPUs that this process sees. As in CUDA, a word that names no GPU hides all GPUs after it.
static std::vector<int> visible() {
    std::vector<int> seen;
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    if (!list) {
        for (long i = 0; i < number("EMULATED_GPU_COUNT", 1); i++) seen.push_back((int)i);
        return seen;
    }
    std::string rest = list;
    while (!rest.empty()) {
        size_t comma = rest.find(',');
        long found = named(rest.substr(0, comma));
        if (found < 0) break;
        seen.push_back((int)found);
        rest = comma == std::string::npos ? "" : rest.substr(comma + 1);
    }
    return seen;
}

static size_t memory() { return (size_t)number("EMULATED_GPU_MEMORY", 1L << 30); }

// Counts the call; the result is the status that the call must return at once if it is not SUCCESS.
// EMULATED_GPU_FAIL is `function:n:status`: the n-th call of the function returns the status. All later
// calls fail too, unless the status is OUT_OF_MEMORY or the function is one of NCCL.
static int enter(const char *function) {
    int calls = ++driver.calls[function];
    const char *fail = getenv("EMULATED_GPU_FAIL");
    if (driver.failed) return driver.failed;
    char name[64];
    int n, status;
    if (!fail || sscanf(fail, "%63[^:]:%d:%d", name, &n, &status) != 3) return SUCCESS;
    if (strcmp(name, function) != 0 || calls != n) return SUCCESS;
    if (status != OUT_OF_MEMORY && strncmp(name, "nccl", 4) != 0) driver.failed = status;
    return status;
}

// Tries the first work of the queue; returns whether the work is done.
static bool advance(Stream *stream) {
    if (!stream->queue.front()()) return false;
    stream->queue.pop_front();
    return true;
}

// Does the work in the queue until it is empty or `is_reached`.
static void finish(Stream *stream, const std::function<bool()> &is_reached = [] { return false; }) {
    auto begun = std::chrono::steady_clock::now();
    while (!stream->queue.empty() && !is_reached()) {
        if (advance(stream)) continue;
        if (std::chrono::steady_clock::now() - begun > PATIENCE) {
            fprintf(stderr, "emulated GPU: waits for what nobody brings\n");
            abort();
        }
        sched_yield();
    }
}

static void finish_all() {
    for (Stream *stream : driver.streams) finish(stream);
}

static int put(void *handle, Work work) {
    Stream *stream = (Stream *)handle;
    if (!driver.streams.count(stream)) return INVALID_HANDLE;
    if (stream->capturing) stream->capturing->work.push_back(std::move(work));
    else stream->queue.push_back([work] { return work(), true; });
    return SUCCESS;
}

// Whether the `bytes` bytes at `place` are inside one of the allocations.
static bool is_within(const std::map<char *, size_t> &allocations, const void *place, size_t bytes) {
    auto next = allocations.upper_bound((char *)place);
    if (next == allocations.begin()) return false;
    auto found = std::prev(next);
    return (char *)place + bytes <= found->first + found->second;
}

static int take(std::map<char *, size_t> &allocations, void **place, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    // The exact size: AddressSanitizer watches the memory beside the allocation.
    void *found = nullptr;
    if (posix_memalign(&found, 256, bytes) != 0) return OUT_OF_MEMORY;
    char *memory = (char *)found;
    memset(memory, 0xff, bytes);
    allocations[memory] = bytes;
    *place = memory;
    return SUCCESS;
}

static int give(std::map<char *, size_t> &allocations, void *place, size_t *bytes) {
    finish_all();
    auto found = allocations.find((char *)place);
    if (found == allocations.end()) {
        fprintf(stderr, "emulated GPU: freed what was not allocated\n");
        abort();
    }
    *bytes = found->second;
    memset(place, 0xff, found->second);
    free(place);
    allocations.erase(found);
    return SUCCESS;
}

#define API extern "C" __attribute__((visibility("default"))) int
#define ENTER()                                                  \
    std::lock_guard<std::recursive_mutex> guard(driver.lock);    \
    if (int failed = enter(__func__)) return failed

API cuInit(unsigned) {
    ENTER();
    const char *order = getenv("EMULATED_GPU_ORDER");
    std::string name = order ? order : "up";
    simt::order = name == "down" ? simt::Order::Down : name == "random" ? simt::Order::Random : simt::Order::Up;
    return visible().empty() ? NO_DEVICE : SUCCESS;
}
API cuDriverGetVersion(int *found) {
    ENTER();
    *found = (int)version();
    return SUCCESS;
}
API cuDeviceGetCount(int *count) {
    ENTER();
    *count = (int)visible().size();
    return SUCCESS;
}
API cuDeviceGet(int *device, int ordinal) {
    ENTER();
    std::vector<int> seen = visible();
    if (ordinal < 0 || ordinal >= (int)seen.size()) return INVALID_DEVICE;
    *device = seen[ordinal];
    return SUCCESS;
}
API cuDeviceGetName(char *name, int room, int device) {
    ENTER();
    std::string mig = text("EMULATED_GPU_MIG");
    snprintf(name, room, "Emulated GPU %d%s%s", device, mig.empty() ? "" : " MIG ", mig.c_str());
    return SUCCESS;
}
API cuDeviceGetPCIBusId(char *name, int room, int device) {
    ENTER();
    snprintf(name, room, "0000:%02x:00.0", device + 1);
    return SUCCESS;
}
API cuDeviceGetAttribute(int *value, int attribute, int) {
    ENTER();
    long capability = number("EMULATED_GPU_CAPABILITY", 90);
    *value = 0;
    if (attribute == 20) *value = text("EMULATED_GPU_PROHIBITED").empty() ? 0 : 2;
    if (attribute == 20 && !text("EMULATED_GPU_EXCLUSIVE").empty()) *value = 3;
    if (attribute == 75) *value = (int)(capability / 10);
    if (attribute == 76) *value = (int)(capability % 10);
    return SUCCESS;
}
API cuDevicePrimaryCtxRetain(void **context, int device) {
    ENTER();
    if (!text("EMULATED_GPU_PROHIBITED").empty()) return DEVICE_UNAVAILABLE;
    std::string taken = text("EMULATED_GPU_EXCLUSIVE");
    static int lock = -1;
    if (!taken.empty() && lock < 0) {
        // Held until the process ends.
        lock = open(taken.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) != 0) {
            if (lock >= 0) close(lock);
            lock = -1;
            return DEVICE_UNAVAILABLE;
        }
    }
    *context = (void *)(uintptr_t)(device + 1);
    return SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuCtxSetCurrent(void *context) {
    ENTER();
    current = context;
    return SUCCESS;
}
API cuMemGetInfo_v2(size_t *free, size_t *total) {
    ENTER();
    *total = memory();
    *free = *total - driver.used;
    return current ? SUCCESS : INVALID_CONTEXT;
}
API cuMemAlloc_v2(void **place, size_t bytes) {
    ENTER();
    if (!current) return INVALID_CONTEXT;
    if (driver.used + bytes > memory()) return OUT_OF_MEMORY;
    driver.used += bytes;
    return take(driver.device, place, bytes);
}
API cuMemFree_v2(void *place) {
    std::lock_guard<std::recursive_mutex> guard(driver.lock);
    size_t bytes = 0;
    give(driver.device, place, &bytes);
    driver.used -= bytes;
    return SUCCESS;
}
API cuMemHostAlloc(void **place, size_t bytes, unsigned) {
    ENTER();
    return current ? take(driver.host, place, bytes) : INVALID_CONTEXT;
}
API cuMemFreeHost(void *place) {
    std::lock_guard<std::recursive_mutex> guard(driver.lock);
    size_t bytes = 0;
    return give(driver.host, place, &bytes);
}
API cuMemHostRegister_v2(void *place, size_t bytes, unsigned) {
    ENTER();
    if (!current || driver.host.count((char *)place)) return INVALID_VALUE;
    driver.host[(char *)place] = bytes;
    return SUCCESS;
}
API cuMemHostUnregister(void *place) {
    std::lock_guard<std::recursive_mutex> guard(driver.lock);
    finish_all();
    return driver.host.erase((char *)place) ? SUCCESS : INVALID_VALUE;
}
API cuMemsetD8Async(void *place, unsigned char value, size_t bytes, void *stream) {
    ENTER();
    if (!is_within(driver.device, place, bytes)) return INVALID_VALUE;
    return put(stream, [=] { memset(place, value, bytes); });
}
API cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream) {
    ENTER();
    if (!is_within(driver.device, to, bytes) || !is_within(driver.host, from, bytes)) return INVALID_VALUE;
    driver.sources.insert(from);
    driver.bytes_in += bytes;
    return put(stream, [=] {
        memcpy(to, from, bytes);
        driver.sources.erase(driver.sources.find(from));
    });
}
API cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *stream) {
    ENTER();
    if (!is_within(driver.host, to, bytes) || !is_within(driver.device, from, bytes)) return INVALID_VALUE;
    if (driver.streams.count((Stream *)stream) && !((Stream *)stream)->capturing) {
        if (driver.sources.count(to)) finish((Stream *)stream);
        memset(to, 0xff, bytes);
    }
    driver.bytes_out += bytes;
    return put(stream, [=] { memcpy(to, from, bytes); });
}
API cuStreamCreate(void **stream, unsigned) {
    ENTER();
    if (!current) return INVALID_CONTEXT;
    Stream *made = new Stream;
    driver.streams.insert(made);
    *stream = made;
    return SUCCESS;
}
API cuStreamDestroy_v2(void *stream) {
    std::lock_guard<std::recursive_mutex> guard(driver.lock);
    if (!driver.streams.erase((Stream *)stream)) return INVALID_HANDLE;
    finish((Stream *)stream);
    delete (Stream *)stream;
    return SUCCESS;
}
API cuStreamSynchronize(void *stream) {
    ENTER();
    if (!driver.streams.count((Stream *)stream)) return INVALID_HANDLE;
    if (((Stream *)stream)->capturing) return CAPTURE_INVALIDATED;
    finish((Stream *)stream);
    return SUCCESS;
}
API cuStreamQuery(void *handle) {
    ENTER();
    Stream *stream = (Stream *)handle;
    if (!driver.streams.count(stream)) return INVALID_HANDLE;
    if (stream->queue.empty()) return SUCCESS;
    advance(stream);
    return NOT_READY;
}
API cuEventCreate(void **event, unsigned) {
    ENTER();
    *event = new Event;
    return current ? SUCCESS : INVALID_CONTEXT;
}
API cuEventDestroy_v2(void *event) {
    std::lock_guard<std::recursive_mutex> guard(driver.lock);
    finish_all();
    delete (Event *)event;
    return SUCCESS;
}
static int record(void *handle, void *stream) {
    Event *event = (Event *)handle;
    event->stream = (Stream *)stream;
    event->is_past = false;
    return put(stream, [=] {
        event->is_past = event->has_time = true;
        event->time = std::chrono::steady_clock::now();
    });
}
API cuEventRecord(void *event, void *stream) {
    ENTER();
    return record(event, stream);
}
API cuEventRecordWithFlags(void *event, void *stream, unsigned) {
    ENTER();
    return record(event, stream);
}
API cuEventElapsedTime(float *milliseconds, void *from, void *to) {
    ENTER();
    Event *begun = (Event *)from, *ended = (Event *)to;
    if (!begun->has_time || !ended->has_time) return INVALID_HANDLE;
    *milliseconds = std::chrono::duration<float, std::milli>(ended->time - begun->time).count();
    return SUCCESS;
}
API cuEventSynchronize(void *handle) {
    ENTER();
    Event *event = (Event *)handle;
    if (event->is_past) return SUCCESS;
    if (!driver.streams.count(event->stream)) return INVALID_HANDLE;
    // Work after the event stays in the queue.
    finish(event->stream, [=] { return event->is_past; });
    return SUCCESS;
}
API cuStreamBeginCapture_v2(void *stream, int) {
    ENTER();
    if (!driver.streams.count((Stream *)stream)) return INVALID_HANDLE;
    ((Stream *)stream)->capturing = new Graph;
    return SUCCESS;
}
API cuStreamEndCapture(void *stream, void **graph) {
    ENTER();
    if (!driver.streams.count((Stream *)stream)) return INVALID_HANDLE;
    Graph *&capturing = ((Stream *)stream)->capturing;
    driver.graphs.insert(capturing);
    *graph = capturing;
    capturing = nullptr;
    return SUCCESS;
}
API cuGraphInstantiateWithFlags(void **executable, void *graph, unsigned long long) {
    ENTER();
    if (!driver.graphs.count((Graph *)graph)) return INVALID_HANDLE;
    Graph *made = new Graph(*(Graph *)graph);
    driver.graphs.insert(made);
    *executable = made;
    return SUCCESS;
}
API cuGraphLaunch(void *executable, void *stream) {
    ENTER();
    Graph *graph = (Graph *)executable;
    if (!driver.graphs.count(graph)) return INVALID_HANDLE;
    return put(stream, [=] {
        for (Work &work : graph->work) work();
    });
}
static int destroy(void *graph) {
    std::lock_guard<std::recursive_mutex> guard(driver.lock);
    finish_all();
    if (!driver.graphs.erase((Graph *)graph)) return INVALID_HANDLE;
    delete (Graph *)graph;
    return SUCCESS;
}
API cuGraphExecDestroy(void *executable) { return destroy(executable); }
API cuGraphDestroy(void *graph) { return destroy(graph); }
API cuModuleLoadData(void **module, const void *image) {
    ENTER();
    if (!current) return INVALID_CONTEXT;
    if (!image || !*(const char *)image) return INVALID_IMAGE;
    if (version() < 13000) return UNSUPPORTED_PTX_VERSION;
    *module = (void *)image;
    return SUCCESS;
}
API cuModuleUnload(void *) { return SUCCESS; }
API cuModuleGetFunction(void **function, void *, const char *name) {
    ENTER();
    *function = (void *)kernel_named(name);
    return *function ? SUCCESS : NOT_FOUND;
}
API cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared_bytes, void *stream, void **arguments,
                   void **) {
    ENTER();
    uint64_t threads = (uint64_t)block_x * block_y * block_z;
    if (!grid_x || !grid_y || !grid_z || grid_y > 65535 || grid_z > 65535) return INVALID_VALUE;
    if (!threads || threads > 1024 || shared_bytes) return INVALID_VALUE;
    Launch launch = {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}};
    return put(stream, (*(const Kernel *)function)(arguments, launch));
}
static int explain(int status, const char **text) {
    static std::map<int, std::string> texts;
    std::lock_guard<std::recursive_mutex> guard(driver.lock);
    std::string &kept = texts.emplace(status, "emulated error " + std::to_string(status)).first->second;
    *text = kept.c_str();
    return SUCCESS;
}
API cuGetErrorName(int status, const char **text) { return explain(status, text); }
API cuGetErrorString(int status, const char **text) { return explain(status, text); }

// For the emulated NCCL: see driver.hpp.
API emulated_enter(const char *function) {
    std::lock_guard<std::recursive_mutex> guard(driver.lock);
    return enter(function);
}
API emulated_is_there(const void *place, size_t bytes) {
    std::lock_guard<std::recursive_mutex> guard(driver.lock);
    return is_within(driver.device, place, bytes);
}
API emulated_has_context() { return current != nullptr; }
API emulated_put(void *handle, const Attempt *attempt) {
    std::lock_guard<std::recursive_mutex> guard(driver.lock);
    Stream *stream = (Stream *)handle;
    if (!driver.streams.count(stream) || stream->capturing) return INVALID_HANDLE;
    stream->queue.push_back(*attempt);
    return SUCCESS;
}
