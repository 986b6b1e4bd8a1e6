"""Compiles the kernels with NVRTC, which needs no GPU and no driver.

compile.py LIBRARIES SOURCES OUT PTX [CUBIN...]: PTX and CUBIN are compute capabilities times ten; writes
OUT/80.ptx, OUT/90.cubin and so on.
"""

import ctypes
import pathlib
import sys

# As in crates/model/src/cuda/compiler.rs: a multiplication and an addition stay two operations.
OPTIONS = ["--fmad=false", "--std=c++17"]


class Compiler:
    def __init__(self, folder: pathlib.Path):
        ctypes.CDLL(str(folder / "libnvrtc-builtins.so.13.0"), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(folder / "libnvrtc.so.13"))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def check(self, status: int, log: str = "") -> None:
        if status:
            text = self.library.nvrtcGetErrorString(status).decode()
            sys.exit(f"{log}\nthe kernels do not compile: {text}")

    def text(self, program: ctypes.c_void_p, kind: str) -> bytes:
        size = ctypes.c_size_t()
        self.check(getattr(self.library, f"nvrtcGet{kind}Size")(program, ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value)
        self.check(getattr(self.library, f"nvrtcGet{kind}")(program, text))
        return text.raw[: size.value]

    def compile(self, sources: pathlib.Path, architecture: str, kind: str) -> bytes:
        """`kind` is CUBIN or PTX."""
        program = ctypes.c_void_p()
        source = (sources / "step.cu").read_bytes()
        self.check(
            self.library.nvrtcCreateProgram(ctypes.byref(program), source, b"step.cu", 0, None, None)
        )
        texts = [*OPTIONS, f"--include-path={sources}", f"--gpu-architecture={architecture}"]
        options = (ctypes.c_char_p * len(texts))(*[text.encode() for text in texts])
        status = self.library.nvrtcCompileProgram(program, len(texts), options)
        log = self.text(program, "ProgramLog").rstrip(b"\0").decode().strip()
        self.check(status, log)
        if log:
            print(log, file=sys.stderr)
        found = self.text(program, kind)
        self.library.nvrtcDestroyProgram(ctypes.byref(program))
        return found


def main() -> None:
    libraries, sources, out = map(pathlib.Path, sys.argv[1:4])
    ptx, *cubins = sys.argv[4:]
    compiler = Compiler(libraries)
    for capability in cubins:
        cubin = compiler.compile(sources, f"sm_{capability}", "CUBIN")
        (out / f"{capability}.cubin").write_bytes(cubin)
    # NVRTC's PTX ends with a zero byte, as the driver requires.
    (out / f"{ptx}.ptx").write_bytes(compiler.compile(sources, f"compute_{ptx}", "PTX"))


if __name__ == "__main__":
    main()
