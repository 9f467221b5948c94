/* What lies between the products of a training step on a CPU, in one pass each: bf16 in and out, fp32 inside.
   Sums have an order that does not depend on the number of threads. */
#include "elements.h"

static inline float sigmoid(float x) { return 1.f / (1.f + exponential(-x)); }

/* Elements of a row that are worked off in fp32 before they are narrowed together, which hardware does many at a time. */
enum { SPAN = 64 };

void gated(const bf16 *both, bf16 *out, long rows, long size) {
#pragma omp parallel for schedule(static)
  for (long m = 0; m < rows; m++)
    for (long first = 0; first < size; first += SPAN) {
      const bf16 *gate = both + m * 2 * size + first, *up = gate + size;
      long count = size - first < SPAN ? size - first : SPAN;
      float found[SPAN];
#pragma omp simd
      for (long j = 0; j < count; j++) {
        float x = wide(gate[j]);
        found[j] = x * sigmoid(x) * wide(up[j]);
      }
      narrow_row(found, count, out + m * size + first);
    }
}

void gated_backward(const bf16 *both, const bf16 *grad, bf16 *out, long rows, long size) {
#pragma omp parallel for schedule(static)
  for (long m = 0; m < rows; m++)
    for (long first = 0; first < size; first += SPAN) {
      const bf16 *gate = both + m * 2 * size + first, *up = gate + size, *from = grad + m * size + first;
      bf16 *to_gate = out + m * 2 * size + first, *to_up = to_gate + size;
      long count = size - first < SPAN ? size - first : SPAN;
      float of_gate[SPAN], of_up[SPAN];
#pragma omp simd
      for (long j = 0; j < count; j++) {
        float x = wide(gate[j]), s = sigmoid(x), g = wide(from[j]);
        of_up[j] = g * x * s;
        of_gate[j] = g * wide(up[j]) * s * (1.f + x * (1.f - s));
      }
      narrow_row(of_gate, count, to_gate);
      narrow_row(of_up, count, to_up);
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
    for (long j = 0; j < size; j++) kept[j] *= share;
    narrow_row(kept, size, row);
    row[targets[m]] = narrow(own);
  }
  free(kept);
  }
}
