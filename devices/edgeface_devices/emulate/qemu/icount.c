/*
 * Instruction counter for qemu-aarch64 (QEMU user mode, plugin API version 1: QEMU 4.2 to 8.2).
 *
 * Counts guest instructions by class and appends one line per mark to a file:
 *     <mark> total=<n> simd=<n> memory=<n> branch=<n> dot=<n>
 * The guest sets mark k (0 to 99) with close(-4700 - k), a call that always fails, so a mark needs no code
 * of its own there. The difference of two marks is the cost of what ran between them.
 *
 * The counters are 64-bit adds inlined into the translated code: exact while one guest thread runs; with
 * several, adds can be lost.
 *
 * Only the calls used are declared (qemu-plugin.h is not packaged everywhere); QEMU resolves them at load time.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t plugin_id;
struct block;
struct instruction;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id,
    void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
             uint64_t, uint64_t));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int operation, void *, uint64_t);
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
extern const void *qemu_plugin_insn_data(const struct instruction *);

#define EXPORT __attribute__((visibility("default")))
EXPORT int qemu_plugin_version = 1;

enum { ADD = 0 };
enum { TOTAL, SIMD, MEMORY, BRANCH, DOT, CLASSES };
static uint64_t counted[CLASSES];
static char path[512] = "/tmp/icount";

/* Top-level encoding groups of A64: bits 28 to 25 of the instruction word (Arm ARM, C4.1). */
static void classify(uint32_t word, uint64_t *count)
{
    unsigned group = (word >> 25) & 15;
    count[TOTAL]++;
    if ((group & 7) == 7) {
        count[SIMD]++;
        /* SDOT and UDOT, by vector and by element. */
        if ((word & 0x9f20fc00u) == 0x0e009400u || (word & 0x9f00f400u) == 0x0f00e000u)
            count[DOT]++;
    } else if ((group & 5) == 4)
        count[MEMORY]++;
    else if ((group & 14) == 10)
        count[BRANCH]++;
}

static void on_translate(plugin_id id, struct block *block)
{
    uint64_t count[CLASSES] = {0};
    size_t length = qemu_plugin_tb_n_insns(block);
    for (size_t i = 0; i < length; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        classify(word, count);
    }
    for (int k = 0; k < CLASSES; k++)
        if (count[k])
            qemu_plugin_register_vcpu_tb_exec_inline(block, ADD, &counted[k], count[k]);
}

static void on_call(plugin_id id, unsigned cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                    uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    int32_t descriptor = (int32_t)a1;
    if (number != 57 /* close on arm64 */ || descriptor > -4700 || descriptor <= -4800)
        return;
    FILE *file = fopen(path, "a");
    if (!file)
        return;
    fprintf(file, "%d total=%llu simd=%llu memory=%llu branch=%llu dot=%llu\n", -4700 - descriptor,
            (unsigned long long)counted[TOTAL], (unsigned long long)counted[SIMD],
            (unsigned long long)counted[MEMORY], (unsigned long long)counted[BRANCH],
            (unsigned long long)counted[DOT]);
    fclose(file);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4))
            snprintf(path, sizeof path, "%s", argv[i] + 4);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_vcpu_syscall_cb(id, on_call);
    return 0;
}
