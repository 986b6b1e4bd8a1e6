/* MKL calls this function before it uses AVX-512. Preloaded, it answers yes on CPUs of all makers. */
int mkl_serv_intel_cpu_true(void) {
    return 1;
}
