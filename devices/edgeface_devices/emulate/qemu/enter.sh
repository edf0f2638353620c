#!/bin/sh
# Runs a command inside an emulated arm64 userland: enter.sh CORE COMMAND [ARGUMENT...]
#
# From the environment: EMULATED_ROOT, the userland; EMULATED_MNT, a folder to see as /mnt (or empty);
# EMULATED_COUNT, a file for the counter's lines (or empty); EMULATED_BOARD, what stands in
# $EDGEFACE_EMULATED inside.
#
# The command has its own user and mount namespace with a private binfmt_misc (Linux 6.7), in which arm64
# programs start under qemu-aarch64. Nothing is registered for the machine, and all is gone at the end.
set -eu
EMULATED_CORE=$1; shift
# Where Debian keeps chroot, which is not on every user's PATH.
PATH=$PATH:/usr/sbin:/sbin
EMULATED_QEMU=$(command -v qemu-aarch64)
export EMULATED_CORE EMULATED_QEMU EMULATED_ROOT EMULATED_MNT EMULATED_COUNT EMULATED_BOARD
exec unshare --user --map-root-user --mount --propagation private -- /bin/sh -eu -c '
    root=$EMULATED_ROOT
    for d in proc sys dev; do mount --rbind "/$d" "$root/$d"; done
    [ -z "$EMULATED_MNT" ] || mount --rbind "$EMULATED_MNT" "$root/mnt"
    mount --bind "$root/emu/cpuinfo.$EMULATED_CORE" "$root/proc/cpuinfo"
    binfmt=$root/proc/sys/fs/binfmt_misc
    mount -t binfmt_misc none "$binfmt"
    # ELF, 64 bit, little endian, executable or shared object, machine 0xb7 (AArch64). F opens qemu now, by its
    # path outside; P keeps argv[0].
    printf %s ":arm64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:$EMULATED_QEMU:FP" > "$binfmt/register"
    plugin=
    if [ -n "$EMULATED_COUNT" ]; then
        : >> "$root/emu/count"
        mount --bind "$EMULATED_COUNT" "$root/emu/count"
        plugin=QEMU_PLUGIN=file=/emu/icount.so,out=/emu/count
    fi
    exec chroot "$root" /usr/bin/env -i HOME=/home/pi USER=pi LANG=C.UTF-8 TERM="${TERM:-dumb}" \
        PATH=/usr/local/bin:/usr/bin:/bin QEMU_CPU="$EMULATED_CORE" EDGEFACE_EMULATED="$EMULATED_BOARD" $plugin \
        /bin/sh -c "cd /home/pi; exec \"\$@\"" sh "$@"
' sh "$@"
