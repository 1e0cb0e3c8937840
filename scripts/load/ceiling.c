/* The ceiling of bench_load: read a file once with O_DIRECT into memory that is there, and do nothing else.
 *
 * ceiling FILE THREADS CHUNK_BYTES: prints the seconds that it took. Threads take chunks from one counter.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int file;
static size_t size, chunk_bytes;
static char *memory;
static atomic_size_t next_chunk;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static void *reader(void *unused) {
  (void)unused;
  for (;;) {
    size_t begin = atomic_fetch_add(&next_chunk, 1) * chunk_bytes;
    if (begin >= size) return NULL;
    size_t end = begin + chunk_bytes < size ? begin + chunk_bytes : size;
    while (begin < end) {
      ssize_t count = pread(file, memory + begin, (end - begin + 4095) / 4096 * 4096, begin);
      if (count <= 0) {
        perror("pread");
        exit(1);
      }
      begin += count;
    }
  }
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  file = open(argv[1], O_RDONLY | O_DIRECT);
  struct stat found;
  if (file < 0 || fstat(file, &found) != 0) {
    perror(argv[1]);
    return 1;
  }
  int num_threads = atoi(argv[2]);
  chunk_bytes = atol(argv[3]);
  size = found.st_size;
  size_t length = (size + (2 << 20)) / (2 << 20) * (2 << 20);
  char *reserved = mmap(NULL, length + (2 << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (reserved == MAP_FAILED) {
    perror("mmap");
    return 1;
  }
  memory = (char *)(((size_t)reserved + (2 << 20) - 1) / (2 << 20) * (2 << 20));
  madvise(memory, length, MADV_HUGEPAGE);
  memset(memory, 1, length);
  pthread_t threads[64];
  double started = now();
  for (int i = 0; i < num_threads; i++) pthread_create(&threads[i], NULL, reader, NULL);
  for (int i = 0; i < num_threads; i++) pthread_join(threads[i], NULL);
  printf("%.6f\n", now() - started);
  return 0;
}
