"""The text around a kernel that runs in simulation: each thread a coroutine of LLVM, and `launch`, which runs a grid's blocks one by one.

A barrier suspends a thread. Threads of a block are resumed in the order that the caller gives, from barrier to barrier, so that a missing
one shows as a result that depends on the order. Asynchronous copies happen at once, or only when they are waited for, as the
caller says. Shared memory is filled with NaN before each block. `launch` gives 0, or DIVERGED where some threads of a block ended
while others waited. The fourth word of a thread's state is 1 if an access of its was not aligned as it claimed.
"""

from __future__ import annotations

from collections.abc import Sequence

from preimage.engines.ir import floating_point

__all__ = ["DIVERGED", "STATE_BYTES", "for_host", "module_text"]

DIVERGED = 1
#: Copies that a thread may have under way.
COPIES = 512
#: Numbers that a thread may show the others of its warp.
SHOWN = 64
#: Of one thread: { i32 lazy, i32 count, i32 group, i32 misaligned, [COPIES x { to, source, i32 size, i32 taken, i32 group, i32 - }], shown }
SHOWN_AT = 16 + COPIES * 32
STATE_BYTES = SHOWN_AT + 8 * SHOWN

_DECLARATIONS = """
declare token @llvm.coro.id(i32, ptr, ptr, ptr)
declare i64 @llvm.coro.size.i64()
declare ptr @llvm.coro.begin(token, ptr)
declare i8 @llvm.coro.suspend(token, i1)
declare {end} @llvm.coro.end(ptr, i1, token)
declare ptr @llvm.coro.free(token, ptr)
declare void @llvm.coro.resume(ptr)
declare void @llvm.coro.destroy(ptr)
declare i1 @llvm.coro.done(ptr)
declare ptr @malloc(i64)
declare void @free(ptr)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""

#: What kernels call: an access that claims an alignment, copies that come later.
_FUNCTIONS = f"""
%entry_t = type {{ ptr, ptr, i32, i32, i32, i32 }}
%state_t = type {{ i32, i32, i32, i32, [{COPIES} x %entry_t] }}

define internal void @sim_aligned(ptr %state, ptr %where, i32 %to) nounwind noinline {{
  %wide = zext i32 %to to i64
  %address = ptrtoint ptr %where to i64
  %mask = sub i64 %wide, 1
  %rest = and i64 %address, %mask
  %bad = icmp ne i64 %rest, 0
  br i1 %bad, label %yes, label %no
yes:
  %flag = getelementptr %state_t, ptr %state, i32 0, i32 3
  store i32 1, ptr %flag
  ret void
no:
  ret void
}}
define internal void @sim_do(ptr %to, ptr %source, i32 %size, i32 %taken) nounwind noinline {{
  %s = zext i32 %size to i64
  %t = zext i32 %taken to i64
  call void @llvm.memset.p0.i64(ptr %to, i8 0, i64 %s, i1 false)
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %source, i64 %t, i1 false)
  ret void
}}
define internal void @sim_copy(ptr %state, ptr %to, ptr %source, i32 %size, i32 %taken) nounwind noinline {{
  %lazy = load i32, ptr %state
  %count_at = getelementptr %state_t, ptr %state, i32 0, i32 1
  %count = load i32, ptr %count_at
  %room = icmp slt i32 %count, {COPIES}
  %wanted = icmp ne i32 %lazy, 0
  %waits = and i1 %room, %wanted
  br i1 %waits, label %later, label %now
now:
  call void @sim_do(ptr %to, ptr %source, i32 %size, i32 %taken)
  ret void
later:
  %group_at = getelementptr %state_t, ptr %state, i32 0, i32 2
  %group = load i32, ptr %group_at
  %e0 = insertvalue %entry_t poison, ptr %to, 0
  %e1 = insertvalue %entry_t %e0, ptr %source, 1
  %e2 = insertvalue %entry_t %e1, i32 %size, 2
  %e3 = insertvalue %entry_t %e2, i32 %taken, 3
  %e4 = insertvalue %entry_t %e3, i32 %group, 4
  %e5 = insertvalue %entry_t %e4, i32 0, 5
  %entry = getelementptr %state_t, ptr %state, i32 0, i32 4, i32 %count
  store %entry_t %e5, ptr %entry
  %more = add i32 %count, 1
  store i32 %more, ptr %count_at
  ret void
}}
define internal void @sim_commit(ptr %state) nounwind noinline {{
  %group_at = getelementptr %state_t, ptr %state, i32 0, i32 2
  %group = load i32, ptr %group_at
  %next = add i32 %group, 1
  store i32 %next, ptr %group_at
  ret void
}}
define internal void @sim_wait(ptr %state, i32 %left) nounwind noinline {{
entry:
  %group_at = getelementptr %state_t, ptr %state, i32 0, i32 2
  %group = load i32, ptr %group_at
  %due = sub i32 %group, %left
  %count_at = getelementptr %state_t, ptr %state, i32 0, i32 1
  %count = load i32, ptr %count_at
  br label %head
head:
  %i = phi i32 [ 0, %entry ], [ %i1, %next ]
  %kept = phi i32 [ 0, %entry ], [ %kept1, %next ]
  %more = icmp slt i32 %i, %count
  br i1 %more, label %one, label %done
one:
  %at = getelementptr %state_t, ptr %state, i32 0, i32 4, i32 %i
  %v = load %entry_t, ptr %at
  %its_group = extractvalue %entry_t %v, 4
  %ready = icmp slt i32 %its_group, %due
  br i1 %ready, label %do, label %keep
do:
  %to = extractvalue %entry_t %v, 0
  %source = extractvalue %entry_t %v, 1
  %size = extractvalue %entry_t %v, 2
  %taken = extractvalue %entry_t %v, 3
  call void @sim_do(ptr %to, ptr %source, i32 %size, i32 %taken)
  br label %next
keep:
  %place = getelementptr %state_t, ptr %state, i32 0, i32 4, i32 %kept
  store %entry_t %v, ptr %place
  %kept2 = add i32 %kept, 1
  br label %next
next:
  %kept1 = phi i32 [ %kept, %do ], [ %kept2, %keep ]
  %i1 = add i32 %i, 1
  br label %head
done:
  store i32 %kept, ptr %count_at
  ret void
}}
"""

#: The kernel as a coroutine. Braces of IR are doubled, for `str.format`.
_KERNEL = """
define internal ptr @kernel({parameters}, i32 %tid, i32 %blockx, i32 %blocky, i32 %blockz, i32 %gridx,
                            ptr addrspace(3) %shared, ptr %sim) presplitcoroutine noinline {{
start:
  %id = call token @llvm.coro.id(i32 0, ptr null, ptr null, ptr null)
  %size = call i64 @llvm.coro.size.i64()
  %mem = call ptr @malloc(i64 %size)
  %hdl = call ptr @llvm.coro.begin(token %id, ptr %mem)
  br label %entry
entry:
{body}
  %last = call i8 @llvm.coro.suspend(token none, i1 true)
  switch i8 %last, label %suspend [ i8 0, label %trap  i8 1, label %cleanup ]
trap:
  unreachable
cleanup:
  %m = call ptr @llvm.coro.free(token %id, ptr %hdl)
  call void @free(ptr %m)
  br label %suspend
suspend:
  {end_call}
  ret ptr %hdl
}}
{declared}
"""

#: The blocks of a grid one by one, each: threads begun in order, resumed in order until all have ended, freed.
_LAUNCH = """
define i64 @launch(ptr %args, i32 %gx, i32 %gy, i32 %gz, ptr %smem, ptr %order, ptr %frames, ptr %states) {{
entry:
{standard}
{unpack}
  %shared = addrspacecast ptr %smem to ptr addrspace(3)
  %gxy = mul i32 %gx, %gy
  %all = mul i32 %gxy, %gz
  br label %blocks
blocks:
  %b = phi i32 [ 0, %entry ], [ %b1, %free_done ]
  %bx = urem i32 %b, %gx
  %q = udiv i32 %b, %gx
  %by = urem i32 %q, %gy
  %bz = udiv i32 %q, %gy
  call void @llvm.memset.p0.i64(ptr %smem, i8 -1, i64 {shared_bytes}, i1 false)
  br label %starts
starts:
  %i = phi i32 [ 0, %blocks ], [ %i1, %starts ]
  %op = getelementptr i32, ptr %order, i32 %i
  %t = load i32, ptr %op
  %so = mul i32 %t, {state_bytes}
  %st = getelementptr i8, ptr %states, i32 %so
  %scp = getelementptr i32, ptr %st, i32 1
  store i64 0, ptr %scp, align 4
  %h = call ptr @kernel({passed}, i32 %t, i32 %bx, i32 %by, i32 %bz, i32 %gx, ptr addrspace(3) %shared, ptr %st)
  %fp = getelementptr ptr, ptr %frames, i32 %t
  store ptr %h, ptr %fp
  %i1 = add i32 %i, 1
  %i2 = icmp slt i32 %i1, {threads}
  br i1 %i2, label %starts, label %rounds
rounds:
  br label %count
count:
  %c = phi i32 [ 0, %rounds ], [ %c1, %count ]
  %nd = phi i32 [ 0, %rounds ], [ %nd1, %count ]
  %cp = getelementptr ptr, ptr %frames, i32 %c
  %ch = load ptr, ptr %cp
  %dn = call i1 @llvm.coro.done(ptr %ch)
  %dz = zext i1 %dn to i32
  %nd1 = add i32 %nd, %dz
  %c1 = add i32 %c, 1
  %c2 = icmp slt i32 %c1, {threads}
  br i1 %c2, label %count, label %judge
judge:
  %none = icmp eq i32 %nd1, 0
  br i1 %none, label %resume, label %some
some:
  %full = icmp eq i32 %nd1, {threads}
  br i1 %full, label %free_all, label %diverged
diverged:
{restore}
  ret i64 {diverged}
resume:
  %r = phi i32 [ 0, %judge ], [ %r1, %resume ]
  %rop = getelementptr i32, ptr %order, i32 %r
  %rt = load i32, ptr %rop
  %rp = getelementptr ptr, ptr %frames, i32 %rt
  %rh = load ptr, ptr %rp
  call void @llvm.coro.resume(ptr %rh)
  %r1 = add i32 %r, 1
  %r2 = icmp slt i32 %r1, {threads}
  br i1 %r2, label %resume, label %rounds
free_all:
  %d = phi i32 [ 0, %some ], [ %d1, %free_all ]
  %dp = getelementptr ptr, ptr %frames, i32 %d
  %dh = load ptr, ptr %dp
  call void @llvm.coro.destroy(ptr %dh)
  %d1 = add i32 %d, 1
  %d2 = icmp slt i32 %d1, {threads}
  br i1 %d2, label %free_all, label %free_done
free_done:
  %b1 = add i32 %b, 1
  %b2 = icmp slt i32 %b1, %all
  br i1 %b2, label %blocks, label %out
out:
{restore}
  ret i64 0
}}
"""


def module_text(kinds: Sequence[str], threads: int, shared_bytes: int, body: str, declared: str) -> str:
    """The module of a kernel whose arguments have these types. What depends on the version of LLVM and on the CPU stands in `for_host`."""
    unpack = "\n".join(
        f"  %w{k} = getelementptr i64, ptr %args, i64 {k}\n  %p{k} = load {kind}, ptr %w{k}" for k, kind in enumerate(kinds)
    )
    return (
        _DECLARATIONS
        + _FUNCTIONS
        + _KERNEL.format(
            parameters=", ".join(f"{kind} %a{k}" for k, kind in enumerate(kinds)), body=body, declared=declared, end_call=_END
        )
        + _LAUNCH.format(
            unpack=unpack, shared_bytes=shared_bytes, state_bytes=STATE_BYTES, threads=threads, diverged=DIVERGED,
            passed=", ".join(f"{kind} %p{k}" for k, kind in enumerate(kinds)), standard=_STANDARD, restore=_RESTORE,
        )
    )  # fmt: skip


_END, _STANDARD, _RESTORE = "; the end", "; the standard mode", "; the mode before"


def for_host(text: str, triple: str, llvm_version: int) -> str:
    """The module as this CPU and this LLVM take it: its floating-point mode is the standard one inside `launch`."""
    end = "void" if llvm_version >= 22 else "i1"
    call = "call void" if end == "void" else "%ended = call i1"
    declared = "\n".join(floating_point.declarations(triple))
    return (
        text.replace("{end}", end)
        .replace(_END, f"{call} @llvm.coro.end(ptr %hdl, i1 false, token none)")
        .replace(_STANDARD, "\n".join(floating_point.set_standard(triple)))
        .replace(_RESTORE, floating_point.restore(triple))
        + declared
        + "\n"
    )
