"""Keeping the pool's workers off the CPU that their caller runs on, as LLVM IR."""

from __future__ import annotations

from string import Template

__all__ = ["CPU_SET", "placing"]

CPU_SET = 128  # bytes of a cpu_set_t


def placing(triple: str, places: dict[str, int]) -> tuple[str, str]:
    """IR that keeps the workers off the caller's CPU, and the function that does it; nothing where the system has no such call.
    places: where the words cpu, workers, mask and threads lie in the pool's memory.

    A worker that is woken may be put on the CPU that the caller keeps busy, although another is idle (Linux, few CPUs: measured
    on two, where both then shared one CPU for tens of ms). So whenever the caller is found on another CPU than at its last job, or may
    run on other CPUs than then, the workers may run on all of its CPUs but that one.
    """
    if "linux" not in triple:
        return "", ""
    return "call void @place(ptr %pool)", _PLACE.substitute(
        places, cpu_set=CPU_SET, most_cpus=8 * CPU_SET, cpu_words=CPU_SET // 8
    )


_PLACE = Template("""
declare i32 @sched_getcpu()
declare i32 @sched_getaffinity(i32, i64, ptr)
declare i32 @pthread_setaffinity_np(i64, i64, ptr)
declare i32 @memcmp(ptr, ptr, i64)

; the workers may run where the caller may, but on its own CPU only if there is no other
define internal void @place(ptr %pool) {
entry:
  %set = alloca [${cpu_set} x i8], align 8
  %p.cpu = getelementptr i8, ptr %pool, i64 ${cpu}
  %p.workers = getelementptr i8, ptr %pool, i64 ${workers}
  %p.mask = getelementptr i8, ptr %pool, i64 ${mask}
  %workers = load i64, ptr %p.workers
  %cpu = call i32 @sched_getcpu()
  %cpu.0 = load i32, ptr %p.cpu
  call void @llvm.memset.p0.i64(ptr %set, i8 0, i64 ${cpu_set}, i1 false)
  %got = call i32 @sched_getaffinity(i32 0, i64 ${cpu_set}, ptr %set)
  %failed = icmp slt i32 %got, 0
  %far = icmp uge i32 %cpu, ${most_cpus}
  %no = or i1 %failed, %far
  br i1 %no, label %done, label %compare
compare:
  %moved = icmp ne i32 %cpu, %cpu.0
  %other = call i32 @memcmp(ptr %p.mask, ptr %set, i64 ${cpu_set})
  %masked = icmp ne i32 %other, 0
  %change = or i1 %moved, %masked
  br i1 %change, label %clear, label %done
clear:
  store i32 %cpu, ptr %p.cpu
  call void @llvm.memcpy.p0.p0.i64(ptr %p.mask, ptr %set, i64 ${cpu_set}, i1 false)
  %bit.0 = zext i32 %cpu to i64
  %at = lshr i64 %bit.0, 6
  %shift = and i64 %bit.0, 63
  %word = getelementptr i64, ptr %set, i64 %at
  %old = load i64, ptr %word
  %bit = shl i64 1, %shift
  %not = xor i64 %bit, -1
  %new = and i64 %old, %not
  store i64 %new, ptr %word
  br label %any
any:  ; is another CPU left?
  %k = phi i64 [ 0, %clear ], [ %k.1, %any ]
  %sum = phi i64 [ 0, %clear ], [ %sum.1, %any ]
  %p = getelementptr i64, ptr %set, i64 %k
  %v = load i64, ptr %p
  %sum.1 = or i64 %sum, %v
  %k.1 = add i64 %k, 1
  %more = icmp slt i64 %k.1, ${cpu_words}
  br i1 %more, label %any, label %found
found:
  %alone = icmp eq i64 %sum.1, 0
  %kept = select i1 %alone, i64 %old, i64 %new
  store i64 %kept, ptr %word
  br label %loop
loop:
  %i = phi i64 [ 0, %found ], [ %i.1, %set.one ]
  %has = icmp slt i64 %i, %workers
  br i1 %has, label %set.one, label %done
set.one:
  %i.at = mul i64 %i, 8
  %i.off = add i64 %i.at, ${threads}
  %i.p = getelementptr i8, ptr %pool, i64 %i.off
  %thread = load i64, ptr %i.p
  call i32 @pthread_setaffinity_np(i64 %thread, i64 ${cpu_set}, ptr %set)
  %i.1 = add i64 %i, 1
  br label %loop
done:
  ret void
}
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
""")
