// The functions of the CUDA driver that Lockstep calls. Memory begins as NaN. Work is done when it is
// waited for, never before: whoever does not wait reads NaN. README.md lists the variables of the
// environment that choose orders, sizes and failures.
#include <map>
#include <mutex>
#include <set>
#include <string>

#include "kernels.hpp"

typedef std::function<void()> Work;

enum Status {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    CAPTURE_INVALIDATED = 901,
};

struct Graph {
    std::vector<Work> work;
};
struct Stream {
    std::vector<Work> queue;
    Graph *capturing = nullptr;
};

// A point in a stream's queue.
struct Event {
    Stream *stream = nullptr;
    bool is_past = true;
};

struct Driver {
    std::recursive_mutex lock;
    std::map<std::string, int> calls;
    int failed = SUCCESS;
    std::map<char *, size_t> device, host;
    std::multiset<const void *> sources;  // Memory of the host that copies have yet to read.
    size_t used = 0;
    std::set<Stream *> streams;
    std::set<Graph *> graphs;
};
static Driver driver;
static thread_local void *current;

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

static size_t memory() { return (size_t)number("EMULATED_GPU_MEMORY", 1L << 30); }

// Counts the call; what it must answer at once. EMULATED_GPU_FAIL is `function:n:status`: its n-th call
// fails so, and all that follows fails too, unless memory is short only.
static int enter(const char *function) {
    int calls = ++driver.calls[function];
    const char *fail = getenv("EMULATED_GPU_FAIL");
    if (driver.failed) return driver.failed;
    char name[64];
    int n, status;
    if (!fail || sscanf(fail, "%63[^:]:%d:%d", name, &n, &status) != 3) return SUCCESS;
    if (strcmp(name, function) != 0 || calls != n) return SUCCESS;
    if (status != OUT_OF_MEMORY) driver.failed = status;
    return status;
}

static void finish(Stream *stream) {
    std::vector<Work> queue = std::move(stream->queue);
    stream->queue.clear();
    for (Work &work : queue) work();
}

static void finish_all() {
    for (Stream *stream : driver.streams) finish(stream);
}

static int put(void *handle, Work work) {
    Stream *stream = (Stream *)handle;
    if (!driver.streams.count(stream)) return INVALID_HANDLE;
    if (stream->capturing) stream->capturing->work.push_back(std::move(work));
    else stream->queue.push_back(std::move(work));
    return SUCCESS;
}

// Whether `bytes` from `place` on lie in one allocation of these.
static bool is_within(const std::map<char *, size_t> &allocations, const void *place, size_t bytes) {
    auto next = allocations.upper_bound((char *)place);
    if (next == allocations.begin()) return false;
    auto found = std::prev(next);
    return (char *)place + bytes <= found->first + found->second;
}

static int take(std::map<char *, size_t> &allocations, void **place, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    char *memory = (char *)aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!memory) return OUT_OF_MEMORY;
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
    return number("EMULATED_GPU_COUNT", 1) > 0 ? SUCCESS : NO_DEVICE;
}
API cuDriverGetVersion(int *version) {
    ENTER();
    *version = (int)number("EMULATED_GPU_VERSION", 13000);
    return SUCCESS;
}
API cuDeviceGetCount(int *count) {
    ENTER();
    *count = (int)number("EMULATED_GPU_COUNT", 1);
    return SUCCESS;
}
API cuDeviceGet(int *device, int ordinal) {
    ENTER();
    *device = ordinal;
    return ordinal >= 0 && ordinal < number("EMULATED_GPU_COUNT", 1) ? SUCCESS : INVALID_DEVICE;
}
API cuDeviceGetName(char *name, int room, int device) {
    ENTER();
    snprintf(name, room, "Emulated GPU %d", device);
    return SUCCESS;
}
API cuDeviceGetAttribute(int *value, int attribute, int) {
    ENTER();
    long capability = number("EMULATED_GPU_CAPABILITY", 90);
    *value = attribute == 75 ? (int)(capability / 10) : attribute == 76 ? (int)(capability % 10) : 0;
    return SUCCESS;
}
API cuDevicePrimaryCtxRetain(void **context, int device) {
    ENTER();
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
API cuMemsetD8Async(void *place, unsigned char value, size_t bytes, void *stream) {
    ENTER();
    if (!is_within(driver.device, place, bytes)) return INVALID_VALUE;
    return put(stream, [=] { memset(place, value, bytes); });
}
API cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream) {
    ENTER();
    if (!is_within(driver.device, to, bytes) || !is_within(driver.host, from, bytes)) return INVALID_VALUE;
    driver.sources.insert(from);
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
API cuEventRecord(void *handle, void *stream) {
    ENTER();
    Event *event = (Event *)handle;
    event->stream = (Stream *)stream;
    event->is_past = false;
    return put(stream, [=] { event->is_past = true; });
}
API cuEventSynchronize(void *handle) {
    ENTER();
    Event *event = (Event *)handle;
    if (event->is_past) return SUCCESS;
    if (!driver.streams.count(event->stream)) return INVALID_HANDLE;
    // What comes after it is not done yet.
    std::vector<Work> &queue = event->stream->queue;
    size_t done = 0;
    while (!event->is_past && done < queue.size()) queue[done++]();
    queue.erase(queue.begin(), queue.begin() + done);
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
