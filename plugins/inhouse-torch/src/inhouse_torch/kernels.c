/* What lies between the products of a training step on a CPU, in one pass each: bf16 in and out, fp32 inside.
   Sums have an order that does not depend on the number of threads. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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

static inline float sigmoid(float x) { return 1.f / (1.f + exponential(-x)); }

void gated(const bf16 *both, bf16 *out, long rows, long size) {
#pragma omp parallel for schedule(static)
  for (long m = 0; m < rows; m++) {
    const bf16 *gate = both + m * 2 * size, *up = gate + size;
    bf16 *to = out + m * size;
#pragma omp simd
    for (long j = 0; j < size; j++) {
      float x = wide(gate[j]);
      to[j] = narrow(x * sigmoid(x) * wide(up[j]));
    }
  }
}

void gated_backward(const bf16 *both, const bf16 *grad, bf16 *out, long rows, long size) {
#pragma omp parallel for schedule(static)
  for (long m = 0; m < rows; m++) {
    const bf16 *gate = both + m * 2 * size, *up = gate + size, *from = grad + m * size;
    bf16 *to_gate = out + m * 2 * size, *to_up = to_gate + size;
#pragma omp simd
    for (long j = 0; j < size; j++) {
      float x = wide(gate[j]), s = sigmoid(x), g = wide(from[j]);
      to_up[j] = narrow(g * x * s);
      to_gate[j] = narrow(g * wide(up[j]) * s * (1.f + x * (1.f - s)));
    }
  }
}

void norm(const float *x, const float *weight, float *inverse, bf16 *out, long rows, long size, float eps) {
#pragma omp parallel for schedule(static)
  for (long m = 0; m < rows; m++) {
    const float *from = x + m * size;
    bf16 *to = out + m * size;
    float square = 0;
#pragma omp simd reduction(+ : square)
    for (long j = 0; j < size; j++) square += from[j] * from[j];
    float r = inverse[m] = 1.f / sqrtf(square / size + eps);
#pragma omp simd
    for (long j = 0; j < size; j++) to[j] = narrow(from[j] * r * weight[j]);
  }
}

/* parts (count, size): sums of the weight's gradient over as many groups of rows */
void norm_backward(const float *x, const float *weight, const float *inverse, const bf16 *grad, float *out,
                   float *parts, long rows, long size, long count) {
#pragma omp parallel for schedule(static)
  for (long p = 0; p < count; p++) {
    float *sum = parts + p * size;
    memset(sum, 0, size * sizeof(float));
    for (long m = rows * p / count; m < rows * (p + 1) / count; m++) {
      const float *from = x + m * size;
      const bf16 *slope = grad + m * size;
      float *to = out + m * size, r = inverse[m], along = 0;
#pragma omp simd reduction(+ : along)
      for (long j = 0; j < size; j++) {
        float both = wide(slope[j]) * from[j];
        along += both * weight[j];
        sum[j] += both * r;
      }
      along *= -r * r / size;
#pragma omp simd
      for (long j = 0; j < size; j++) to[j] = (wide(slope[j]) * weight[j] + from[j] * along) * r;
    }
  }
}

/* x: tokens of `heads` heads, `stride` apart; out is dense */
void rotate(const bf16 *x, const float *cosine, const float *sine, bf16 *out, long tokens, long heads, long size,
            long stride, float sign) {
#pragma omp parallel for schedule(static)
  for (long t = 0; t < tokens; t++) {
    const float *c = cosine + t * size, *s = sine + t * size;
    long half = size / 2;
    for (long h = 0; h < heads; h++) {
      const bf16 *from = x + t * stride + h * size;
      bf16 *to = out + (t * heads + h) * size;
#pragma omp simd
      for (long j = 0; j < half; j++) {
        float a = wide(from[j]), b = wide(from[j + half]);
        to[j] = narrow(a * c[j] - sign * b * s[j]);
        to[j + half] = narrow(b * c[j + half] + sign * a * s[j + half]);
      }
    }
  }
}

/* in place; row i of each `rows` sees the first keys - rows + i + 1 keys */
void causal_softmax(bf16 *scores, long count, long rows, long keys, float scale) {
#pragma omp parallel
  {
  float *kept = malloc(keys * sizeof(float));
#pragma omp for schedule(static)
  for (long m = 0; m < count * rows; m++) {
    bf16 *row = scores + m * keys;
    long seen = keys - rows + m % rows + 1;
    float top = -INFINITY, sum = 0;
#pragma omp simd reduction(max : top)
    for (long j = 0; j < seen; j++) {
      float each = wide(row[j]) * scale;
      kept[j] = each;
      top = each > top ? each : top;
    }
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < seen; j++) {
      float each = exponential(kept[j] - top);
      kept[j] = each;
      sum += each;
    }
    float share = 1.f / sum;
#pragma omp simd
    for (long j = 0; j < seen; j++) row[j] = narrow(kept[j] * share);
    memset(row + seen, 0, (keys - seen) * sizeof(bf16));
  }
  free(kept);
  }
}

/* in place of grad */
void causal_softmax_backward(bf16 *grad, const bf16 *weights, long count, long rows, long keys) {
#pragma omp parallel for schedule(static)
  for (long m = 0; m < count * rows; m++) {
    bf16 *to = grad + m * keys;
    const bf16 *w = weights + m * keys;
    long seen = keys - rows + m % rows + 1;
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (long j = 0; j < seen; j++) dot += wide(to[j]) * wide(w[j]);
#pragma omp simd
    for (long j = 0; j < seen; j++) to[j] = narrow((wide(to[j]) - dot) * wide(w[j]));
    memset(to + seen, 0, (keys - seen) * sizeof(bf16));
  }
}

/* logits -> their gradient, in place; losses: of every row */
void slopes(bf16 *logits, const int64_t *targets, double *losses, long rows, long size) {
#pragma omp parallel
  {
  float *kept = malloc(size * sizeof(float));
#pragma omp for schedule(static)
  for (long m = 0; m < rows; m++) {
    bf16 *row = logits + m * size;
    float top = -INFINITY, sum = 0, picked = wide(row[targets[m]]);
#pragma omp simd reduction(max : top)
    for (long j = 0; j < size; j++) {
      float each = wide(row[j]);
      top = each > top ? each : top;
    }
#pragma omp simd reduction(+ : sum)
    for (long j = 0; j < size; j++) {
      float each = exponential(wide(row[j]) - top);
      kept[j] = each;
      sum += each;
    }
    losses[m] = (double)top + log((double)sum) - picked;
    float share = 1.f / sum, own = kept[targets[m]] * share - 1.f;
#pragma omp simd
    for (long j = 0; j < size; j++) row[j] = narrow(kept[j] * share);
    row[targets[m]] = narrow(own);
  }
  free(kept);
  }
}
