/* MKL asks this before it takes its AVX-512 path. Preloaded, it says yes on any maker's CPU. */
int mkl_serv_intel_cpu_true(void) {
    return 1;
}
