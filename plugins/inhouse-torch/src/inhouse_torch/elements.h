/* Numbers of a training step: bf16 in memory, fp32 in between. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

typedef uint16_t bf16;

static inline float wide(bf16 v) {
  uint32_t u = (uint32_t)v << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static inline bf16 narrow(float f) { /* to the nearest, ties to even */
  uint32_t u;
  memcpy(&u, &f, 4);
  return f != f ? 0x7fc0 : (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}

static inline void narrow_row(const float *x, long size, bf16 *to) {
  long j = 0;
#ifdef __AVX512BF16__
  for (; j + 16 <= size; j += 16)
    _mm256_storeu_si256((__m256i *)(to + j), (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(x + j)));
#endif
  for (; j < size; j++) to[j] = narrow(x[j]);
}

static inline float exponential(float x) { /* 2^n times a polynomial; 2e-7 off, vectorised unlike expf */
  float t = x * 1.44269504f;
  t = t > 126.f ? 126.f : t;
  t = t < -126.f ? -126.f : t;
  float n = rintf(t), r = t - n;
  float p = 1.f + r * (0.693147182f + r * (0.240226507f + r * (0.0555041087f + r * (0.00961812911f
            + r * (0.00133335581f + r * 0.000154035304f)))));
  int32_t bits = ((int32_t)n + 127) << 23;
  float power;
  memcpy(&power, &bits, 4);
  return p * power;
}
