// The functions of NVRTC that Lockstep calls. They compile nothing: the emulated driver contains its
// kernels, and accepts any text as a module.
#include <cstring>
#include <string>

#define API extern "C" __attribute__((visibility("default"))) int

API nvrtcCreateProgram(void **program, const char *source, const char *, int, const char *const *,
                       const char *const *) {
    *program = new std::string(source);
    return 0;
}
API nvrtcDestroyProgram(void **program) {
    delete (std::string *)*program;
    *program = nullptr;
    return 0;
}
API nvrtcCompileProgram(void *, int, const char *const *) { return 0; }
API nvrtcGetPTXSize(void *program, size_t *bytes) {
    *bytes = ((std::string *)program)->size() + 1;
    return 0;
}
API nvrtcGetPTX(void *program, char *text) {
    strcpy(text, ((std::string *)program)->c_str());
    return 0;
}
API nvrtcGetProgramLogSize(void *, size_t *bytes) {
    *bytes = 1;
    return 0;
}
API nvrtcGetProgramLog(void *, char *text) {
    *text = 0;
    return 0;
}
