// Hides instruction sets from a program, which then computes as on a processor without them.
//
//     cc -O2 -shared -fPIC hide_instructions.c -o hide_instructions.so -ldl
//     HIDE_CPUID=7.0.b.10000,7.0.c.800 HIDE_CPUINFO=FILE LD_PRELOAD=./hide_instructions.so COMMAND
//
// HIDE_CPUID: bits to clear in what CPUID answers, each LEAF.SUBLEAF.REGISTER.MASK in hexadecimal, the register a to d.
// HIDE_CPUINFO: the file to read instead of /proc/cpuinfo.
//
// Linux on x86, where processor and kernel have CPUID fault (arch_prctl(2), ARCH_CPUID; "cpuid_fault" in /proc/cpuinfo):
// each CPUID instruction then raises SIGSEGV, whose handler executes it and changes the answer. It is inherited by
// threads and forked processes, and set again in each program that one of them starts.

#define _GNU_SOURCE
#include <asm/prctl.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { MOST_RULES = 64 };

static struct {
  unsigned leaf, subleaf, reg, mask;
} rules[MOST_RULES];
static int rule_count;
static int is_ending;

static void allow_cpuid(int allowed) { syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed); }

static void on_fault(int number, siginfo_t *information, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  const unsigned char *instruction = (const unsigned char *)registers[REG_RIP];
  if (instruction[0] != 0x0f || instruction[1] != 0xa2) {  // not CPUID: a fault of the program's own
    struct sigaction action = {.sa_handler = SIG_DFL};
    is_ending = 1;
    sigaction(SIGSEGV, &action, NULL);
    return;
  }
  unsigned leaf = registers[REG_RAX], subleaf = registers[REG_RCX], answer[4];
  allow_cpuid(1);
  __asm__ volatile("cpuid"
                   : "=a"(answer[0]), "=b"(answer[1]), "=c"(answer[2]), "=d"(answer[3])
                   : "a"(leaf), "c"(subleaf));
  allow_cpuid(0);
  for (int i = 0; i < rule_count; i++)
    if (rules[i].leaf == leaf && rules[i].subleaf == subleaf) answer[rules[i].reg] &= ~rules[i].mask;
  registers[REG_RAX] = answer[0];
  registers[REG_RBX] = answer[1];
  registers[REG_RCX] = answer[2];
  registers[REG_RDX] = answer[3];
  registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void start(void) {
  const char *text = getenv("HIDE_CPUID");
  if (text == NULL) return;
  for (; rule_count < MOST_RULES; rule_count++) {
    unsigned leaf, subleaf, mask;
    char reg;
    int length;
    if (sscanf(text, "%x.%x.%c.%x%n", &leaf, &subleaf, &reg, &mask, &length) != 4) break;
    if (reg < 'a' || reg > 'd') break;
    rules[rule_count].leaf = leaf;
    rules[rule_count].subleaf = subleaf;
    rules[rule_count].reg = reg - 'a';
    rules[rule_count].mask = mask;
    text += length;
    if (*text == ',') text++;
  }
  if (*text != '\0') {
    fprintf(stderr, "HIDE_CPUID cannot be read from here on: %s\n", text);
    _exit(2);
  }
  struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  sigaction(SIGSEGV, &action, NULL);
  if (syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0) != 0) {
    perror("This machine does not let CPUID be hidden");
    _exit(2);
  }
}

// Compilers and others set handlers of their own, which would end the program at its next CPUID.

int sigaction(int number, const struct sigaction *action, struct sigaction *old) {
  int (*next)(int, const struct sigaction *, struct sigaction *) = dlsym(RTLD_NEXT, "sigaction");
  int is_ours = is_ending || (action != NULL && action->sa_sigaction == on_fault);
  if (number == SIGSEGV && rule_count > 0 && !is_ours) action = NULL;
  return action == NULL && old == NULL ? 0 : next(number, action, old);
}

sighandler_t signal(int number, sighandler_t handler) {
  sighandler_t (*next)(int, sighandler_t) = dlsym(RTLD_NEXT, "signal");
  return number == SIGSEGV && rule_count > 0 ? SIG_DFL : next(number, handler);
}

static const char *other(const char *path) {
  const char *file = getenv("HIDE_CPUINFO");
  return file != NULL && path != NULL && strcmp(path, "/proc/cpuinfo") == 0 ? file : path;
}

#define MODE(flags)                   \
  va_list rest;                       \
  va_start(rest, flags);              \
  mode_t mode = va_arg(rest, mode_t); \
  va_end(rest)

int open(const char *path, int flags, ...) {
  int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
  MODE(flags);
  return next(other(path), flags, mode);
}

int open64(const char *path, int flags, ...) {
  int (*next)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
  MODE(flags);
  return next(other(path), flags, mode);
}

int openat(int folder, const char *path, int flags, ...) {
  int (*next)(int, const char *, int, ...) = dlsym(RTLD_NEXT, "openat");
  MODE(flags);
  return next(folder, other(path), flags, mode);
}
