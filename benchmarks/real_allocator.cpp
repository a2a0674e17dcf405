// PyTorch's own caching allocator, driven by a loop: how many requests it serves in a second, history off.
//
//   real_allocator PROGRAM REPEATS
//
// PROGRAM is an array of requests (16 bytes each, little endian). Prints one line of JSON.
#include <c10/cuda/CUDACachingAllocator.h>
#if __has_include(<c10/cuda/PeerToPeerAccess.h>)
#include <c10/cuda/PeerToPeerAccess.h>
#define HAS_PEER_CACHE
#endif

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <vector>

// What libtorch_cuda tells this library when it is loaded; it has no header.
namespace c10::cuda::_internal {
void setHasPrimaryContext(bool (*)(signed char));
}

struct Request {
  int64_t bytes; // -1: a free
  uint32_t id;
  uint32_t stream; // of an allocation; 0 is the default stream
};

namespace allocator = c10::cuda::CUDACachingAllocator;

static std::vector<Request> read(const char* path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  std::vector<Request> requests(static_cast<size_t>(file.tellg()) / sizeof(Request));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(requests.data()), static_cast<std::streamsize>(requests.size() * sizeof(Request)));
  return requests;
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  auto requests = read(argv[1]);
  uint32_t ids = 0, streams = 1;
  for (const auto& request : requests) {
    if (request.id >= ids) ids = request.id + 1;
    if (request.stream >= streams) streams = request.stream + 1;
  }
  std::vector<cudaStream_t> handles(streams, nullptr);
  for (uint32_t i = 1; i < streams; i++) cudaStreamCreate(&handles[i]);
  c10::cuda::_internal::setHasPrimaryContext([](signed char) { return true; });
  allocator::init(1);
#ifdef HAS_PEER_CACHE
  c10::cuda::detail::init_p2p_access_cache(1); // expandable segments ask it
#endif

  std::printf("{\"requests\": %zu, \"seconds\": [", requests.size());
  int64_t peak = 0;
  for (int repeat = 0; repeat < std::atoi(argv[2]); repeat++) {
    std::vector<void*> held(ids, nullptr);
    auto start = std::chrono::steady_clock::now();
    try {
      for (const auto& request : requests) {
        if (request.bytes < 0) {
          allocator::raw_delete(held[request.id]);
          held[request.id] = nullptr;
        } else {
          held[request.id] = allocator::raw_alloc_with_stream(static_cast<size_t>(request.bytes), handles[request.stream]);
        }
      }
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      return 1;
    }
    std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::printf("%s%.6f", repeat ? ", " : "", took.count());
    peak = allocator::getDeviceStats(0).reserved_bytes[0].peak;
    for (void* pointer : held)
      if (pointer) allocator::raw_delete(pointer);
    allocator::emptyCache();
  }
  std::printf("], \"peak_reserved_bytes\": %lld}\n", static_cast<long long>(peak));
  std::fflush(stdout);
  std::_Exit(0); // nothing of torch's is torn down: other libraries of its may not be there
}
