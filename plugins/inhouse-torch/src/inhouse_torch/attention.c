/* Causal attention of joined sequences in a training step, and its gradient, on a CPU that multiplies bf16 in AVX-512.

   For one segment and one head of keys at a time, block by block of query rows, so that all but the operands and
   results stays in a core's cache; scores are never in memory, the backward pass makes them again from their
   log-sum-exp (FlashAttention-2, arXiv:2307.08691). All sums have an order that does not depend on the number of
   threads. */
#ifdef __AVX512BF16__
#include <immintrin.h>
#include <omp.h>
#include "elements.h"

enum { TILE = 4, BLOCK = 32 };

typedef struct {
  int64_t heads, kv_heads, size, stride_q, stride_k, stride_v; /* strides: from token to token */
  int64_t parts; /* groups of segments that the gradients of a prefix are summed over before those sums are */
  int64_t prefix, count, begins[]; /* count + 1 borders of segments, the prefix among them */
} Layout;

typedef struct { /* the tables of the rotary embedding, (tokens, size), or none */
  const float *cosine, *sine;
} Rotary;

/* two bf16 that follow each other on the side that is summed over; written as bf16, read as pairs */
typedef uint32_t __attribute__((may_alias)) pair;

static long up(long n, long to) { return (n + to - 1) / to * to; }

static inline __attribute__((always_inline)) void tile(const int width, float *c, long next, const pair *a, long row,
                                                       long step, const pair *b, long size, long depth, int add) {
  __m512 sum[TILE][4];
#pragma GCC unroll 4
  for (int r = 0; r < TILE; r++)
#pragma GCC unroll 4
    for (int w = 0; w < width; w++) sum[r][w] = add ? _mm512_loadu_ps(c + r * next + 16 * w) : _mm512_setzero_ps();
  for (long s = 0; s < depth; s++) {
    __m512bh right[4];
#pragma GCC unroll 4
    for (int w = 0; w < width; w++) right[w] = (__m512bh)_mm512_loadu_si512(b + s * size + 16 * w);
#pragma GCC unroll 4
    for (int r = 0; r < TILE; r++) {
      __m512bh left = (__m512bh)_mm512_set1_epi32((int)a[r * row + s * step]);
#pragma GCC unroll 4
      for (int w = 0; w < width; w++) sum[r][w] = _mm512_dpbf16_ps(sum[r][w], left, right[w]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < TILE; r++)
#pragma GCC unroll 4
    for (int w = 0; w < width; w++) _mm512_storeu_ps(c + r * next + 16 * w, sum[r][w]);
}

/* c (m, n), rows `next` apart, (+)= a b: pair s of row i of a at a[i * row + s * step], b (depth, n) with rows `size`
   apart. n is a multiple of 16, and m is rounded up to TILE: what lies in a's rows past m goes to c's rows past m, so
   those of c are either never read or a is zero there. */
static void product(float *c, long next, const pair *a, long row, long step, const pair *b, long size, long m, long n,
                    long depth, int add) {
  for (long j = 0; j < n; j += 64)
    for (long i = 0; i < m; i += TILE) {
      float *to = c + i * next + j;
      const pair *left = a + i * row, *right = b + j;
      if (n - j >= 64) tile(4, to, next, left, row, step, right, size, depth, add);
      else if (n - j == 48) tile(3, to, next, left, row, step, right, size, depth, add);
      else if (n - j == 32) tile(2, to, next, left, row, step, right, size, depth, add);
      else tile(1, to, next, left, row, step, right, size, depth, add);
    }
}

/* rows from token `first` on of one head -> dense, rotated where there are tables */
static void fetch(const bf16 *from, long stride, long first, long rows, long size, Rotary tables, bf16 *to) {
  for (long i = 0; i < rows; i++) {
    const bf16 *x = from + (first + i) * stride;
    bf16 *y = to + i * size;
    if (tables.cosine) {
      const float *c = tables.cosine + (first + i) * size, *s = tables.sine + (first + i) * size;
      long half = size / 2;
#pragma omp simd
      for (long d = 0; d < half; d++) {
        float a = wide(x[d]), b = wide(x[d + half]);
        y[d] = narrow(a * c[d] - b * s[d]);
        y[d + half] = narrow(b * c[d + half] + a * s[d + half]);
      }
    } else memcpy(y, x, size * sizeof(bf16));
  }
}

/* the gradient of what was fetched: rows of fp32 -> token `first` on of one head */
static void deliver(const float *from, long first, long rows, long size, Rotary tables, bf16 *to, long stride) {
  for (long i = 0; i < rows; i++) {
    const float *x = from + i * size;
    bf16 *y = to + (first + i) * stride;
    long half = size / 2;
    if (tables.cosine) {
      const float *c = tables.cosine + (first + i) * size, *s = tables.sine + (first + i) * size;
#pragma omp simd
      for (long d = 0; d < half; d++) {
        float a = x[d], b = x[d + half];
        y[d] = narrow(a * c[d] + b * s[d + half]);
        y[d + half] = narrow(b * c[d + half] - a * s[d]);
      }
    } else {
#pragma omp simd
      for (long d = 0; d < size; d++) y[d] = narrow(x[d]);
    }
  }
}

/* (rows, size) -> pairs along size, (size / 2, next) */
static void across(const bf16 *x, long rows, long size, pair *to, long next) {
  const pair *from = (const pair *)x;
  const __m512i steps = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                           _mm512_set1_epi32((int)size / 2));
  long full = rows / 16 * 16;
  for (long s = 0; s < size / 2; s++) {
    for (long j = 0; j < full; j += 16)
      _mm512_storeu_si512(to + s * next + j, _mm512_i32gather_epi32(steps, from + j * (size / 2) + s, 4));
    for (long j = full; j < rows; j++) to[s * next + j] = from[j * (size / 2) + s];
  }
}

/* (rows, size) -> pairs along rows, (up(rows, 2) / 2, size) */
static void down(const bf16 *x, long rows, long size, pair *to) {
  for (long i = 0; i < rows; i += 2) {
    const bf16 *one = x + i * size, *two = one + size;
    pair *y = to + i / 2 * size;
    if (i + 1 < rows)
#pragma omp simd
      for (long d = 0; d < size; d++) y[d] = one[d] | (pair)two[d] << 16;
    else
#pragma omp simd
      for (long d = 0; d < size; d++) y[d] = one[d];
  }
}

/* two rows -> the pairs of their columns; `size`: a multiple of 16 */
static void join(const float *one, const float *two, long size, pair *to) {
  for (long j = 0; j < size; j += 16) {
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(one + j)));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(two + j)));
    _mm512_storeu_si512(to + j, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
  }
}

/* scores of one row -> their exponentials in bf16, zero from `seen` up to `all`; gives the sum, and the largest */
static float weigh(float *scores, long seen, long all, float scale, bf16 *to, float *largest) {
  long full = up(seen, 16); /* a tail would be worked off one by one */
  __m512 tops = _mm512_set1_ps(-INFINITY), sums = _mm512_setzero_ps();
  for (long j = seen; j < full; j++) scores[j] = -INFINITY;
  for (long j = 0; j < full; j += 16) tops = _mm512_max_ps(tops, _mm512_loadu_ps(scores + j));
  float top = *largest = _mm512_reduce_max_ps(tops) * scale;
#pragma omp simd
  for (long j = 0; j < full; j++) scores[j] = exponential(scores[j] * scale - top);
  for (long j = 0; j < full; j += 16) sums = _mm512_add_ps(sums, _mm512_loadu_ps(scores + j));
  narrow_row(scores, full, to);
  memset(to + seen, 0, (all - seen) * sizeof(bf16));
  return _mm512_reduce_add_ps(sums);
}

/* One row's scores -> its weights, and the gradients of the weights -> those of the scores, also in bf16; all are zero
   from `seen` up to `all`. `sum`: the log of the sum of the exponentials */
static void slope(float *scores, float *grads, long seen, long all, float scale, float sum, bf16 *to) {
  long full = up(seen, 16);
  __m512 dots = _mm512_setzero_ps();
#pragma omp simd
  for (long j = 0; j < full; j++) scores[j] = exponential(scores[j] * scale - sum);
  memset(scores + seen, 0, (all - seen) * sizeof(float));
  memset(grads + seen, 0, (full - seen) * sizeof(float));
  for (long j = 0; j < full; j += 16)
    dots = _mm512_fmadd_ps(_mm512_loadu_ps(scores + j), _mm512_loadu_ps(grads + j), dots);
  float dot = _mm512_reduce_add_ps(dots);
#pragma omp simd
  for (long j = 0; j < full; j++) grads[j] = scores[j] * (grads[j] - dot) * scale;
  memset(grads + seen, 0, (all - seen) * sizeof(float));
  narrow_row(grads, all, to);
}

/* What a segment sees: the first `shared` tokens, then its own `length` from `begin` on, `keys` in all; its row i sees
   the first before + i + 1 of them. The prefix is a segment too: all its keys are shared, none comes before it. */
typedef struct { long begin, length, shared, before, keys; } Segment;

static Segment segment(const Layout *of, long n) {
  long begin = of->begins[n], length = of->begins[n + 1] - begin;
  if (begin < of->prefix) return (Segment){begin, length, length, 0, length};
  return (Segment){begin, length, of->prefix, of->prefix, of->prefix + length};
}

static void fetch_keys(const bf16 *from, long stride, Segment s, long size, Rotary tables, bf16 *to) {
  fetch(from, stride, 0, s.shared, size, tables, to);
  fetch(from, stride, s.begin, s.keys - s.shared, size, tables, to + s.shared * size);
}

static long most_keys(const Layout *of) {
  long most = 0;
  for (long n = 0; n < of->count; n++) {
    long keys = segment(of, n).keys;
    most = keys > most ? keys : most;
  }
  return up(most, 16);
}

/* What one thread works with. Matrices of pairs are named by the side that their pairs follow. */
typedef struct {
  bf16 *rows, *queries, *grads, *weights;
  pair *keys_across, *keys_down, *values_across, *values_down, *queries_down, *grads_down, *weights_down, *slopes_down;
  float *scores, *grad_scores, *found, *grad_k, *grad_v;
} Work;

static void *take(char **at, long bytes) {
  void *found = *at;
  *at += up(bytes, 64);
  return found;
}

/* Lays the matrices out from `at` on, which is 64-byte aligned; gives the end. */
static char *lay_out(Work *w, char *at, long keys, long size, int backward) {
  long all = keys * size, own = BLOCK * size, block = BLOCK * keys;
  w->rows = take(&at, all * 2), w->keys_across = take(&at, all * 2);
  w->queries = take(&at, own * 2), w->found = take(&at, own * 4);
  w->scores = take(&at, block * 4), w->weights = take(&at, block * 2);
  if (!backward) {
    w->values_down = take(&at, all * 2);
    return at;
  }
  w->keys_down = take(&at, all * 2), w->values_across = take(&at, all * 2);
  w->grad_k = take(&at, all * 4), w->grad_v = take(&at, all * 4);
  w->grads = take(&at, own * 2), w->queries_down = take(&at, own * 2), w->grads_down = take(&at, own * 2);
  w->grad_scores = take(&at, block * 4), w->weights_down = take(&at, block * 2), w->slopes_down = take(&at, block * 2);
  return at;
}

/* bytes that one thread needs; `work` below is as many for each thread */
long attend_work(const Layout *of, int backward) {
  Work w;
  return lay_out(&w, 0, most_keys(of), of->size, backward) - (char *)0;
}

void attend(const bf16 *q, const bf16 *k, const bf16 *v, const float *cosine, const float *sine, bf16 *out, float *sums,
            char *work, const Layout *of, float scale) {
  long size = of->size, group = of->heads / of->kv_heads, keys = most_keys(of), bytes = attend_work(of, 0);
  Rotary tables = {cosine, sine}, none = {0, 0};
#pragma omp parallel
  {
    Work w;
    lay_out(&w, work + bytes * omp_get_thread_num(), keys, size, 0);
#pragma omp for schedule(dynamic)
    for (long task = 0; task < of->count * of->kv_heads; task++) {
      Segment s = segment(of, task / of->kv_heads);
      long kv = task % of->kv_heads;
      fetch_keys(k + kv * size, of->stride_k, s, size, tables, w.rows);
      across(w.rows, s.keys, size, w.keys_across, keys);
      fetch_keys(v + kv * size, of->stride_v, s, size, none, w.rows);
      down(w.rows, s.keys, size, w.values_down);
      for (long h = kv * group; h < (kv + 1) * group; h++)
        for (long first = 0; first < s.length; first += BLOCK) {
          long count = s.length - first < BLOCK ? s.length - first : BLOCK, token = s.begin + first;
          long seen = s.before + first + count, all = up(seen, 16);
          fetch(q + h * size, of->stride_q, token, count, size, tables, w.queries);
          product(w.scores, keys, (pair *)w.queries, size / 2, 1, w.keys_across, keys, count, all, size / 2, 0);
          float shares[BLOCK];
          for (long i = 0; i < count; i++) {
            float top, sum = weigh(w.scores + i * keys, s.before + first + i + 1, all, scale, w.weights + i * keys, &top);
            sums[(token + i) * of->heads + h] = top + logf(sum);
            shares[i] = 1.f / sum;
          }
          product(w.found, size, (pair *)w.weights, keys / 2, 1, w.values_down, size, count, size, up(seen, 2) / 2, 0);
          for (long i = 0; i < count; i++) {
            bf16 *to = out + ((token + i) * of->heads + h) * size;
#pragma omp simd
            for (long d = 0; d < size; d++) to[d] = narrow(w.found[i * size + d] * shares[i]);
          }
        }
    }
  }
}

/* Adds what the block's rows give to the gradients of keys and values; leaves that of the queries in w->found. */
static void block_backward(Work *w, long keys, long size, long before, long count, float scale, const float *sums) {
  long seen = before + count, all = up(seen, 16), even = up(count, 2);
  product(w->scores, keys, (pair *)w->queries, size / 2, 1, w->keys_across, keys, count, all, size / 2, 0);
  product(w->grad_scores, keys, (pair *)w->grads, size / 2, 1, w->values_across, keys, count, all, size / 2, 0);
  for (long i = 0; i < even; i++)
    slope(w->scores + i * keys, w->grad_scores + i * keys, i < count ? before + i + 1 : 0, all, scale, sums[i],
          w->weights + i * keys);
  for (long i = 0; i < even; i += 2) {
    join(w->scores + i * keys, w->scores + (i + 1) * keys, all, w->weights_down + i / 2 * keys);
    join(w->grad_scores + i * keys, w->grad_scores + (i + 1) * keys, all, w->slopes_down + i / 2 * keys);
  }
  down(w->queries, count, size, w->queries_down);
  down(w->grads, count, size, w->grads_down);
  product(w->found, size, (pair *)w->weights, keys / 2, 1, w->keys_down, size, count, size, up(seen, 2) / 2, 0);
  product(w->grad_v, size, w->weights_down, 1, keys, w->grads_down, size, seen, size, even / 2, 1);
  product(w->grad_k, size, w->slopes_down, 1, keys, w->queries_down, size, seen, size, even / 2, 1);
}

/* parts (of->parts, kv_heads, 2, prefix, size), zero: the gradients of a prefix by groups of segments */
void attend_backward(const bf16 *q, const bf16 *k, const bf16 *v, const float *cosine, const float *sine,
                     const float *sums, const bf16 *grad, bf16 *grad_q, bf16 *grad_k, bf16 *grad_v, float *parts,
                     char *work, const Layout *of, float scale) {
  long size = of->size, group = of->heads / of->kv_heads, keys = most_keys(of), heads = of->heads, kv_heads = of->kv_heads;
  long groups = of->prefix ? of->parts : of->count, shared = of->prefix * size, bytes = attend_work(of, 1);
  Rotary tables = {cosine, sine}, none = {0, 0};
#pragma omp parallel
  {
    Work w;
    lay_out(&w, work + bytes * omp_get_thread_num(), keys, size, 1);
#pragma omp for schedule(dynamic)
    for (long task = 0; task < groups * kv_heads; task++) {
      long part = task / kv_heads, kv = task % kv_heads;
      float *shared_k = parts + task * 2 * shared, *shared_v = shared_k + shared;
      for (long n = of->count * part / groups; n < of->count * (part + 1) / groups; n++) {
        Segment s = segment(of, n);
        fetch_keys(v + kv * size, of->stride_v, s, size, none, w.rows);
        across(w.rows, s.keys, size, w.values_across, keys);
        fetch_keys(k + kv * size, of->stride_k, s, size, tables, w.rows);
        across(w.rows, s.keys, size, w.keys_across, keys);
        down(w.rows, s.keys, size, w.keys_down);
        memset(w.grad_k, 0, up(s.keys, TILE) * size * 4);
        memset(w.grad_v, 0, up(s.keys, TILE) * size * 4);
        for (long h = kv * group; h < (kv + 1) * group; h++)
          for (long first = 0; first < s.length; first += BLOCK) {
            long count = s.length - first < BLOCK ? s.length - first : BLOCK, token = s.begin + first;
            float log_sums[BLOCK] = {0};
            for (long i = 0; i < count; i++) log_sums[i] = sums[(token + i) * heads + h];
            fetch(q + h * size, of->stride_q, token, count, size, tables, w.queries);
            fetch(grad + h * size, heads * size, token, count, size, none, w.grads);
            block_backward(&w, keys, size, s.before + first, count, scale, log_sums);
            deliver(w.found, token, count, size, tables, grad_q + h * size, heads * size);
          }
        for (long d = 0; d < s.shared * size; d++) shared_k[d] += w.grad_k[d], shared_v[d] += w.grad_v[d];
        long own = s.keys - s.shared;
        deliver(w.grad_k + s.shared * size, s.begin, own, size, tables, grad_k + kv * size, kv_heads * size);
        deliver(w.grad_v + s.shared * size, s.begin, own, size, none, grad_v + kv * size, kv_heads * size);
      }
    }
#pragma omp for schedule(static)
    for (long kv = 0; kv < kv_heads * (of->prefix > 0); kv++) {
      float *sum_k = parts + kv * 2 * shared, *sum_v = sum_k + shared;
      for (long part = 1; part < of->parts; part++)
        for (long d = 0; d < 2 * shared; d++) sum_k[d] += parts[(part * kv_heads + kv) * 2 * shared + d];
      deliver(sum_k, 0, of->prefix, size, tables, grad_k + kv * size, kv_heads * size);
      deliver(sum_v, 0, of->prefix, size, none, grad_v + kv * size, kv_heads * size);
    }
  }
}
#endif
