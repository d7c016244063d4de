/* What a device (a GPU, or the emulated one) offers, as a table of C functions: the only thing that crosses
 * the border to a backend, which may be a shared library built by another compiler. No C++ type and no
 * exception crosses it. device/device.h is what the rest of the program uses.
 *
 * Order. Work goes to streams. Within a stream it runs in order; between streams in any order that events
 * allow. A call only queues, unless it says that it waits. Arrays in host memory that an operation takes by
 * pointer are read before the call returns; what copies read and write must stay as it is until they have
 * run, and means nothing to who reads it before.
 *
 * Status. 0: done. Anything else: failed, error() says to the thread that called why, in one line; the device
 * may be of no further use.
 *
 * Numbers. Activations are float32, row-major. Weights are packed as on the host (kernels/packed_matrix.h,
 * experts/slice.h), keys and values too (kernels/kv_view.h). Addresses need an alignment of 256 bytes where
 * they are matrices, of 64 where they are slices or caches, of 4 otherwise.
 *
 * Threads. One thread at a time; but `pin` may be called by a second one meanwhile, so that memory is pinned
 * in the background, part by part, while the device is at work.
 */
#pragma once

/* NOLINTBEGIN(modernize-deprecated-headers,modernize-use-using,modernize-redundant-void-arg): this is C */

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FIDDLER_DEVICE_ABI 2u

typedef struct FiddlerDevice FiddlerDevice;

typedef uint64_t FiddlerAddress; /* of device memory, never 0; not for the host to look at */
typedef int32_t FiddlerStream;
typedef int32_t FiddlerEvent;
typedef int32_t FiddlerSegment;

/* WeightFormat, Rounding and DType of the host, by number (kernels/packed_matrix.h, kernels/ops.h,
 * base/dtype.h). */
typedef struct FiddlerMatrix {
  FiddlerAddress data;
  int64_t rows;
  int64_t cols;
  int32_t format;
  int32_t padding;
} FiddlerMatrix;

/* Where the tokens of a batch are, all in device memory, so that a captured segment serves every step. */
typedef struct FiddlerBatch {
  int64_t tokens;
  FiddlerAddress positions;    /* int32 [tokens]; tokens of one sequence lie in order, one after another */
  FiddlerAddress sequences;    /* int32 [tokens], row of block_tables */
  FiddlerAddress block_tables; /* int32 [.., table_stride] */
  int64_t table_stride;
} FiddlerBatch;

/* Keys and values of one layer. */
typedef struct FiddlerKv {
  FiddlerAddress layer;
  int64_t head_stride; /* bytes */
  int64_t kv_heads;
  int64_t head_dim;
  int32_t dtype; /* F32 or BF16 */
  int32_t padding;
} FiddlerKv;

/* y = x / sqrt(mean(x^2) + epsilon) * weight, each row by itself. y may be x. */
typedef struct FiddlerRmsNorm {
  int64_t rows;
  int64_t cols;
  FiddlerAddress x;      /* [rows, cols] */
  FiddlerAddress y;      /* [rows, cols] */
  FiddlerAddress weight; /* [cols] */
  float epsilon;
  int32_t padding;
} FiddlerRmsNorm;

/* y[t, r] = sum_k x[row t, k] * w[r, k] + bias[r]. */
typedef struct FiddlerMatMul {
  int64_t tokens;
  FiddlerAddress x;         /* [.., w.cols] */
  FiddlerAddress row_index; /* int32 [tokens]: which row of x; or 0: row t */
  FiddlerMatrix w;
  FiddlerAddress bias; /* [w.rows] or 0 */
  FiddlerAddress y;    /* [tokens, w.rows] */
  int32_t rounding;    /* of x */
  int32_t padding;
} FiddlerMatMul;

/* Between the projections and attention: q and k normed, all clamped, q and k rotated in place, k and v
 * written to the cache. */
typedef struct FiddlerRotateStore {
  FiddlerBatch batch;
  int64_t num_heads;
  FiddlerAddress q;      /* [tokens, num_heads * head_dim] */
  FiddlerAddress k;      /* [tokens, kv_heads * head_dim] */
  FiddlerAddress v;      /* [tokens, kv_heads * head_dim] */
  FiddlerAddress q_norm; /* [norm_cols_q] or 0: no norm */
  FiddlerAddress k_norm; /* [norm_cols_k] or 0 */
  int64_t q_norm_cols;   /* head_dim, or all heads together */
  int64_t k_norm_cols;
  float epsilon;
  float clamp;           /* to [-clamp, clamp]; 0: not */
  int64_t rotary_dim;    /* leading dimensions of a head that turn */
  FiddlerAddress cosine; /* [positions, rotary_dim / 2] */
  FiddlerAddress sine;   /* [positions, rotary_dim / 2] */
  FiddlerKv kv;
} FiddlerRotateStore;

/* Causal attention over the cache (AttendArgs of kernels/ops.h). */
typedef struct FiddlerAttend {
  FiddlerBatch batch;
  int64_t num_heads;
  FiddlerAddress q;   /* [tokens, num_heads * head_dim] */
  FiddlerAddress out; /* [tokens, num_heads * head_dim] */
  int64_t window;     /* 0: none */
  float scale;
  int32_t padding;
  FiddlerKv kv;
} FiddlerAttend;

/* y += x. */
typedef struct FiddlerAdd {
  int64_t count;
  FiddlerAddress x;
  FiddlerAddress y;
} FiddlerAdd;

/* x = 1 / (1 + exp(-x)). */
typedef struct FiddlerSigmoid {
  int64_t count;
  FiddlerAddress x;
} FiddlerSigmoid;

/* From router logits to the experts of each token, highest weight first, ties to the lower number. */
typedef struct FiddlerRoute {
  int64_t tokens;
  int64_t num_experts;
  int64_t top_k;
  FiddlerAddress logits;  /* [tokens, num_experts], overwritten */
  FiddlerAddress experts; /* int32 [tokens, top_k] */
  FiddlerAddress weights; /* [tokens, top_k] */
  int32_t renormalize;
  int32_t padding;
} FiddlerRoute;

/* Some slices of gated FFNs, all of one geometry: for every entry, in order,
 *   out[row] += weight * down(silu(gate x[row]) * (up x[row])) for its tokens. */
typedef struct FiddlerSlices {
  FiddlerAddress slice; /* the first of num_slices that lie one behind the other */
  int64_t num_slices;
  int64_t tokens;
  const int32_t* rows;              /* host, [tokens]: rows of x and out; or null: row t */
  const float* weights;             /* host, [tokens]; or null: see next */
  FiddlerAddress weights_on_device; /* [tokens], or 0: all weights are 1 */
} FiddlerSlices;

typedef struct FiddlerFfn {
  int64_t hidden;
  int64_t slice_neurons;
  int64_t slice_bytes;
  int32_t format;
  int32_t rounding;   /* of x and of the activations */
  FiddlerAddress x;   /* [.., hidden] */
  FiddlerAddress out; /* [.., hidden] */
  const FiddlerSlices* entries;
  int64_t num_entries;
} FiddlerFfn;

typedef struct FiddlerMemory {
  uint64_t installed_bytes; /* that the device has */
  uint64_t cap_bytes;       /* may not be exceeded: allocate fails instead */
  uint64_t used_bytes;
  uint64_t peak_bytes;
} FiddlerMemory;

typedef struct FiddlerDeviceApi {
  uint32_t abi_version;  /* FIDDLER_DEVICE_ABI */
  uint32_t struct_bytes; /* sizeof(FiddlerDeviceApi) */

  const char* (*error)(FiddlerDevice*); /* of the last call that failed, until the next call */
  const char* (*name)(FiddlerDevice*);
  /* What has not run when this returns never does; awaited flags are set, so that nothing waits for ever. All
   * memory goes. */
  void (*close)(FiddlerDevice*);

  int32_t (*memory)(FiddlerDevice*, FiddlerMemory* memory);
  int32_t (*allocate)(FiddlerDevice*, uint64_t bytes, FiddlerAddress* address); /* contents: anything */
  int32_t (*release)(FiddlerDevice*, FiddlerAddress address); /* waits until nothing uses it */
  /* Allocated memory for what operations compute on their way, from now on: enough for all that will be asked
   * of them (device/scratch.h). All operations go to one stream: two would meet there. */
  int32_t (*set_scratch)(FiddlerDevice*, FiddlerAddress address, uint64_t bytes);
  /* Host memory that copies reach at full speed and that flags may lie in. Contents: anything. */
  int32_t (*allocate_pinned)(FiddlerDevice*, uint64_t bytes, void** data);
  int32_t (*release_pinned)(FiddlerDevice*, void* data);
  /* The same for memory that is there already, such as the weights. If it fails, a part may stay pinned. */
  int32_t (*pin)(FiddlerDevice*, const void* data, uint64_t bytes);
  int32_t (*unpin)(FiddlerDevice*, const void* data);

  int32_t (*create_stream)(FiddlerDevice*, FiddlerStream* stream);
  int32_t (*create_event)(FiddlerDevice*, FiddlerEvent* event);
  /* The event stands for all that is in the stream now. May be recorded again: a wait that is queued already
   * goes on waiting for what it stood for then. */
  int32_t (*record)(FiddlerDevice*, FiddlerStream, FiddlerEvent);
  int32_t (*wait_event)(FiddlerDevice*, FiddlerStream, FiddlerEvent); /* the stream waits, not the caller */
  int32_t (*synchronize)(FiddlerDevice*, FiddlerStream);              /* the caller waits */

  /* Pinned memory is copied while the caller goes on. From or to other memory the call may wait until the
   * stream gets there: so never behind an `await` that the caller is to answer. */
  int32_t (*copy_in)(FiddlerDevice*, FiddlerStream, FiddlerAddress to, const void* from, uint64_t bytes);
  int32_t (*copy_out)(FiddlerDevice*, FiddlerStream, void* to, FiddlerAddress from, uint64_t bytes);
  int32_t (*clear)(FiddlerDevice*, FiddlerStream, FiddlerAddress to, uint64_t bytes); /* to zeros */

  /* Mailbox: a flag in pinned memory is 0 or 1. Who waits for 1 sets it back to 0. */
  int32_t (*post)(FiddlerDevice*, FiddlerStream, uint32_t* flag); /* the stream sets it, once it gets there */
  int32_t (*await)(FiddlerDevice*, FiddlerStream, uint32_t* flag); /* the stream waits for it */
  int32_t (*set_flag)(FiddlerDevice*, uint32_t* flag);             /* the host sets it */
  /* The host waits for it, without giving up its core; fails after so many seconds. */
  int32_t (*wait_flag)(FiddlerDevice*, uint32_t* flag, double seconds);

  /* What is queued on the stream in between does not run but becomes a segment, which may be run any number
   * of times: as if all of it were called again at each launch, but for arrays in host memory, which are
   * those of the capture. */
  int32_t (*begin_capture)(FiddlerDevice*, FiddlerStream);
  int32_t (*end_capture)(FiddlerDevice*, FiddlerStream, FiddlerSegment* segment);
  int32_t (*launch)(FiddlerDevice*, FiddlerStream, FiddlerSegment);
  int32_t (*release_segment)(FiddlerDevice*, FiddlerSegment);

  int32_t (*rms_norm)(FiddlerDevice*, FiddlerStream, const FiddlerRmsNorm*);
  int32_t (*mat_mul)(FiddlerDevice*, FiddlerStream, const FiddlerMatMul*);
  int32_t (*rotate_store)(FiddlerDevice*, FiddlerStream, const FiddlerRotateStore*);
  int32_t (*attend)(FiddlerDevice*, FiddlerStream, const FiddlerAttend*);
  int32_t (*add)(FiddlerDevice*, FiddlerStream, const FiddlerAdd*);
  int32_t (*sigmoid)(FiddlerDevice*, FiddlerStream, const FiddlerSigmoid*);
  int32_t (*route)(FiddlerDevice*, FiddlerStream, const FiddlerRoute*);
  int32_t (*ffn)(FiddlerDevice*, FiddlerStream, const FiddlerFfn*);

  /* Limits to hold the others against. Reads memory once, a multiple of 16 bytes from a multiple of 16 on. */
  int32_t (*read_probe)(FiddlerDevice*, FiddlerStream, FiddlerAddress data, uint64_t bytes);
  /* Multiplies BF16 numbers in registers and sums them in float32; `operations`: how many that will be. */
  int32_t (*product_probe)(FiddlerDevice*, FiddlerStream, int64_t rounds, double* operations);
} FiddlerDeviceApi;

/* How a backend in a shared library opens its device. */
typedef struct FiddlerOpenOptions {
  uint64_t memory_bytes; /* cap; 0: what is free now, but for what the backend itself will need */
  int32_t ordinal;       /* which device, from 0 */
  int32_t padding;
} FiddlerOpenOptions;

/* The one function that such a library exports, as FIDDLER_OPEN_DEVICE. 0: done. FIDDLER_NO_DEVICE: this
 * machine has none ("no driver", "no device"). Anything else: there is one that cannot be used ("driver too
 * old: .."). `error`, of error_bytes, says why in one line. */
#define FIDDLER_NO_DEVICE 1
typedef int32_t (*FiddlerOpenDevice)(uint32_t abi_version, const FiddlerOpenOptions* options,
                                     const FiddlerDeviceApi** api, FiddlerDevice** device, char* error,
                                     uint64_t error_bytes);
#define FIDDLER_OPEN_DEVICE "fiddler_open_device"

#ifdef __cplusplus
}
#endif

/* NOLINTEND(modernize-deprecated-headers,modernize-use-using,modernize-redundant-void-arg) */
