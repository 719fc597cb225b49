/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The one binary contract of Twinbeat: the frame on the wire and the maps between kernel and engine.
 *
 * Included by the BPF programs (compiled by bcc), by the engine (C11) and by the tests; Python parses
 * nothing of it by hand but asks the cffi module for sizes and offsets. Everything here is naturally
 * aligned, without padding, and asserted below.
 *
 * Clock: every *_ns in a map is CLOCK_BOOTTIME of this node (bpf_ktime_get_boot_ns), which goes on while
 * the machine is suspended. Times of the other node are opaque numbers that are only ever echoed.
 */
#ifndef TB_ABI_H
#define TB_ABI_H

/* Tables of fields and numbers, one to a line with what it means. */
/* clang-format off */

#ifdef TB_BPF
typedef unsigned char tb_u8;
typedef unsigned short tb_u16;
typedef unsigned int tb_u32;
typedef unsigned long long tb_u64;
#define TB_ASSERT(cond, text) _Static_assert(cond, text)
#else
#include <stdint.h>
typedef uint8_t tb_u8;
typedef uint16_t tb_u16;
typedef uint32_t tb_u32;
typedef unsigned long long tb_u64; /* the same type in BPF and here: one printf format, one offset */
#define TB_ASSERT(cond, text) _Static_assert(cond, text)
#endif

#define TB_MAGIC 0x54425431u /* "TBT1" */
#define TB_VERSION 1
#define TB_PORT 3003
#define TB_SIEVE_FACTOR 0x9e3779b1u

enum tb_limits {
	TB_LINKS = 8,	   /* links per pair */
	TB_CPUS = 128,	   /* processors whose receive path can be proven */
	TB_KEYS = 2,	   /* keys accepted at once */
	TB_VIPS = 16384,   /* virtual addresses per family */
	TB_SIEVE_WORDS = 1024, /* of 64 bits: what a sieve of addresses consists of */
	TB_BUCKETS = 32,   /* histogram buckets: bucket i counts values below 2^i microseconds */
	TB_FRAME_SIZE = 128,
	TB_MAC_COVERS = 120,
};

/* ------------------------------------------------------------------ the frame on the wire ---- */

enum tb_type {
	TB_HELLO = 1,	/* the agent lives */
	TB_PROBE = 2,	/* the agent lives and asks the peer's kernel for an answer */
	TB_ANSWER = 3,	/* the kernel lives: made by XDP from a PROBE */
	TB_CONTROL = 4, /* never leaves the node: proves that its own receive path runs */
};

enum tb_flag {
	TB_F_OPEN = 1u << 0,	    /* the sender's gate was open when the frame was made (from the gate words) */
	TB_F_HEARS_YOU = 1u << 1,   /* the sender accepted a frame of yours within its dead interval */
	TB_F_YIELD = 1u << 2,	    /* take over: the sender's reign `term` ends as soon as you claim */
	TB_F_PAUSED = 1u << 3,	    /* nobody claims; renewal goes on */
	TB_F_RESTART = 1u << 4,	    /* planned restart: the lease was lengthened, silence is expected */
	TB_F_ISOLATED = 1u << 5,    /* the sender sees no carrier, or none of its reference addresses */
	TB_F_CONTESTED = 1u << 6,   /* the sender's gate is shut because another one was heard open */
	TB_F_FIT = 1u << 7,	    /* the sender could serve: healthy, enabled, gate programs in place */
	TB_F_STARTING = 1u << 8,    /* the sender has not yet listened long enough to decide anything */
	TB_F_PREFERRED = 1u << 9,   /* the sender was told to stay primary */
	TB_F_CLAIMING = 1u << 10,   /* the sender asks for the term in `claim` and is not open under it */
	TB_F_PAUSE_ACK = 1u << 11,  /* the sender has seen that the receiver is paused */
	TB_F_STRANDED = 1u << 12,   /* the sender opened without a receipt and has none yet */
	TB_F_NEVER_CLAIMS = 1u << 13, /* stay-secondary or disabled: the sender will not take over */
	TB_F_KNOWN = 1u << 14,	    /* ANSWER: echo_ns holds the newest counter of yours that the sender knows: jump above it */
	TB_F_NEWBORN = 1u << 15,    /* the sender's disk knows of no term, and its peer told it of no past: a new pair, if both say so */
	TB_F_PROPOSAL = 1u << 16,   /* HELLO: some fields are about intervals that the sender wants: struct tb_proposal */
	TB_F_REFUSES = 1u << 17,    /* with PROPOSAL: the sender doesn't keep the receiver's proposal of that number */
	TB_F_EVEN_SO = 1u << 18,    /* with PROPOSAL: though a host can't hold them */
	TB_F_NEGOTIATES = 1u << 19, /* the sender understands PROPOSAL; who doesn't is sent none */
};

/*
 * The upper bits of a frame's flags: with PAUSED, how much of the pause is left, rounded up; 0 = it has no end (or
 * its sender is of a version that told none: those never set these bits, and heed them not). Five bits of exponent
 * over five of mantissa, in ms: E = 0 is M, any other (32 + M) << (E - 1), so that at most a 32nd is added.
 */
#define TB_PAUSE_LEFT 0xffc00000u
#define TB_PAUSE_SHIFT 22
#define TB_PAUSE_HALVED 0xf8000000u /* its exponent */

enum tb_role { TB_ROLE_INIT = 0, TB_ROLE_SECONDARY, TB_ROLE_CLAIMING, TB_ROLE_PRIMARY, TB_ROLE_DISABLED };
enum tb_admin { TB_ADMIN_ENABLED = 0, TB_ADMIN_STAY_PRIMARY, TB_ADMIN_STAY_SECONDARY, TB_ADMIN_DISABLED };

/*
 * UDP payload, big-endian, 128 bytes, the same for every type and for ever: role, term, claim, fence,
 * open flag, lease, counter and echo never move. Reserved bytes are zero.
 */
struct tb_frame {
	tb_u32 magic;	     /*   0  TB_MAGIC */
	tb_u8 version;	     /*   4  layout of this frame */
	tb_u8 type;	     /*   5  enum tb_type */
	tb_u8 node;	     /*   6  index of the sender, 0 or 1; under the MAC, so a frame can't be turned round */
	tb_u8 link;	     /*   7  number of the link it was sent on; ANSWER: that of the PROBE */
	tb_u32 pair;	     /*   8  id of the pair */
	tb_u8 key_id;	     /*  12  the key of this frame's MAC */
	tb_u8 keys[TB_KEYS]; /*  13  ids of the keys the sender accepts, 0 = none */
	tb_u8 layouts;	     /*  15  newest layout the sender speaks */
	tb_u64 counter;	     /*  16  boot epoch << 32 | sequence; one per node over all links; only ever grows */
	tb_u64 echo;	     /*  24  newest counter accepted from the receiver; ANSWER: the PROBE's own */
	tb_u64 term;	     /*  32  gate term of the sender, 0 = none */
	tb_u64 claim;	     /*  40  the term claimed, 0 = none: whoever hears it serves nothing older */
	tb_u64 fence_below;  /*  48  the receipt: every term below it is over at the sender */
	tb_u64 highest;	     /*  56  highest term the sender ever saw */
	tb_u64 sent_ns;	     /*  64  sender's clock */
	tb_u64 echo_ns;	     /*  72  sent_ns of the frame echoed (with TB_F_KNOWN: a counter) */
	tb_u32 lease_us;     /*  80  what is left of the sender's lease, 0 = its gate is shut */
	tb_u32 flags;	     /*  84  enum tb_flag */
	tb_u8 role;	     /*  88  enum tb_role */
	tb_u8 admin;	     /*  89  enum tb_admin */
	tb_u16 health;	     /*  90  score, higher is better */
	tb_u32 dead_us;	     /*  92  the sender's dead interval */
	tb_u32 lease_full_us;/*  96  the lease the sender renews to */
	tb_u32 hello_us;     /* 100 */
	tb_u32 verify_us;    /* 104 */
	tb_u32 hold_us;	     /* 108  how long the echoed frame lay here before this one was made */
	tb_u32 generation;   /* 112  of the shared configuration */
	tb_u32 digest;	     /* 116  of the shared configuration */
	tb_u64 mac;	     /* 120  SipHash-2-4 over the 120 bytes before it, stored little-endian as the algorithm has it */
};
TB_ASSERT(sizeof(struct tb_frame) == TB_FRAME_SIZE, "frame size");
TB_ASSERT(__builtin_offsetof(struct tb_frame, magic) == 0, "magic");
TB_ASSERT(__builtin_offsetof(struct tb_frame, version) == 4, "version");
TB_ASSERT(__builtin_offsetof(struct tb_frame, type) == 5, "type");
TB_ASSERT(__builtin_offsetof(struct tb_frame, node) == 6, "node");
TB_ASSERT(__builtin_offsetof(struct tb_frame, link) == 7, "link");
TB_ASSERT(__builtin_offsetof(struct tb_frame, pair) == 8, "pair");
TB_ASSERT(__builtin_offsetof(struct tb_frame, key_id) == 12, "key_id");
TB_ASSERT(__builtin_offsetof(struct tb_frame, keys) == 13, "keys");
TB_ASSERT(__builtin_offsetof(struct tb_frame, layouts) == 15, "layouts");
TB_ASSERT(__builtin_offsetof(struct tb_frame, counter) == 16, "counter");
TB_ASSERT(__builtin_offsetof(struct tb_frame, echo) == 24, "echo");
TB_ASSERT(__builtin_offsetof(struct tb_frame, term) == 32, "term");
TB_ASSERT(__builtin_offsetof(struct tb_frame, claim) == 40, "claim");
TB_ASSERT(__builtin_offsetof(struct tb_frame, fence_below) == 48, "fence_below");
TB_ASSERT(__builtin_offsetof(struct tb_frame, highest) == 56, "highest");
TB_ASSERT(__builtin_offsetof(struct tb_frame, sent_ns) == 64, "sent_ns");
TB_ASSERT(__builtin_offsetof(struct tb_frame, echo_ns) == 72, "echo_ns");
TB_ASSERT(__builtin_offsetof(struct tb_frame, lease_us) == 80, "lease_us");
TB_ASSERT(__builtin_offsetof(struct tb_frame, flags) == 84, "flags");
TB_ASSERT(__builtin_offsetof(struct tb_frame, role) == 88, "role");
TB_ASSERT(__builtin_offsetof(struct tb_frame, admin) == 89, "admin");
TB_ASSERT(__builtin_offsetof(struct tb_frame, health) == 90, "health");
TB_ASSERT(__builtin_offsetof(struct tb_frame, dead_us) == 92, "dead_us");
TB_ASSERT(__builtin_offsetof(struct tb_frame, lease_full_us) == 96, "lease_full_us");
TB_ASSERT(__builtin_offsetof(struct tb_frame, hello_us) == 100, "hello_us");
TB_ASSERT(__builtin_offsetof(struct tb_frame, verify_us) == 104, "verify_us");
TB_ASSERT(__builtin_offsetof(struct tb_frame, hold_us) == 108, "hold_us");
TB_ASSERT(__builtin_offsetof(struct tb_frame, generation) == 112, "generation");
TB_ASSERT(__builtin_offsetof(struct tb_frame, digest) == 116, "digest");
TB_ASSERT(__builtin_offsetof(struct tb_frame, mac) == TB_MAC_COVERS, "mac");

/* --------------------------------------------------------------------------------- maps ------ */

/*
 * Map "gate", one entry, mmapable. Frozen layout, for all versions.
 * open <=> term != 0 and term >= fence_below and now < open_until and contested != term
 */
struct tb_gate {
	tb_u64 term;	    /* engine: the term under which this node serves, 0 = none */
	tb_u64 open_until;  /* engine: end of the lease */
	tb_u64 fence_below; /* XDP alone, only raised: every term below it is over */
	tb_u64 contested;   /* XDP alone: the own term against which an open peer was heard, 0 = none */
	tb_u64 counter;	    /* engine and XDP, atomic: the last counter drawn for a frame */
	tb_u64 contested_ns;/* XDP: when `contested` was set */
	tb_u64 reserved[2];
};
TB_ASSERT(sizeof(struct tb_gate) == 64, "gate size");
TB_ASSERT(__builtin_offsetof(struct tb_gate, term) == 0, "gate: term");
TB_ASSERT(__builtin_offsetof(struct tb_gate, open_until) == 8, "gate: open_until");
TB_ASSERT(__builtin_offsetof(struct tb_gate, fence_below) == 16, "gate: fence_below");
TB_ASSERT(__builtin_offsetof(struct tb_gate, contested) == 24, "gate: contested");
TB_ASSERT(__builtin_offsetof(struct tb_gate, counter) == 32, "gate: counter");
TB_ASSERT(__builtin_offsetof(struct tb_gate, contested_ns) == 40, "gate: contested_ns");
TB_ASSERT(__builtin_offsetof(struct tb_gate, reserved) == 48, "gate: reserved");

/*
 * Map "self", one entry, mmapable: what the engine lets the kernel say in an ANSWER, and what it needs to
 * judge frames. Words are written singly; a reader may see two from different ticks, never a torn one.
 */
struct tb_self {
	tb_u64 probe_from;  /* ANSWERs count only for a probe with this counter or a later one; 0 = for none */
	tb_u64 fresh_from;  /* first own counter drawn within the last dead interval: an echo of it or later is fresh */
	tb_u64 highest;
	tb_u64 claim;
	tb_u32 flags;	    /* enum tb_flag without those that the gate words give (OPEN, CONTESTED) */
	tb_u8 role;
	tb_u8 admin;
	tb_u16 health;
	tb_u32 dead_us;
	tb_u32 lease_full_us;
	tb_u32 hello_us;
	tb_u32 verify_us;
	tb_u32 generation;
	tb_u32 digest;
};
TB_ASSERT(sizeof(struct tb_self) == 64, "self size");

struct tb_key {
	tb_u64 k0, k1;	/* the 16 bytes of the key, little-endian words */
	tb_u32 id;	/* 1-255, 0 = slot empty */
	tb_u32 reserved;
};

/* Map "config", one entry: written by the agent before links are attached, and to rotate keys. Not mmapped. */
struct tb_config {
	tb_u32 pair;
	tb_u8 node;	/* own index */
	tb_u8 send_key; /* slot (not id) under which frames are sent */
	tb_u16 port;	/* host order */
	tb_u32 reserved[2];
	struct tb_key keys[TB_KEYS];
};
TB_ASSERT(sizeof(struct tb_config) == 16 + TB_KEYS * 24, "config size");

/*
 * Intervals that a node wants kept by both. In a HELLO with TB_F_PROPOSAL they stand in the place of what every
 * other frame says of its sender, and that stays as it was: hello_us, verify_us, lease_full_us; dead_us in that of
 * hold_us, stall_us in that of digest, number in that of generation. The frame's own dead_us always holds.
 */
struct tb_proposal {
	tb_u32 number;	 /* grows with each change; the higher one counts; 0 = none */
	tb_u32 flags;	 /* TB_F_PROPOSAL, TB_F_REFUSES, TB_F_EVEN_SO */
	tb_u32 hello_us; /* all 0 = those of each node's configuration; REFUSES: how late the sender's host is */
	tb_u32 dead_us;
	tb_u32 verify_us;
	tb_u32 stall_us;
	tb_u32 lease_us;
	tb_u32 every;	 /* one HELLO of so many carries it; not on the wire */
};
TB_ASSERT(sizeof(struct tb_proposal) == 32, "proposal size");

enum { TB_PROPOSAL_FLAGS = TB_F_PROPOSAL | TB_F_REFUSES | TB_F_EVEN_SO };

/*
 * Map "peer", one entry, mmapable: the newest frame of the peer by counter, whatever link it came on.
 * `seq` is odd while XDP writes; a reader copies, and copies again if seq moved.
 * Values are in host order.
 */
struct tb_peer {
	tb_u64 seq;
	tb_u64 epoch;	     /* boot epoch of the peer adopted since this map was made (counter >> 32), 0 = none yet */
	tb_u64 base;	     /* counter at adoption: nothing at or below it is accepted on any link */
	tb_u64 known;	     /* newest counter of the peer ever known, that of earlier boots included (agent restores it) */
	tb_u64 taught;	     /* newest counter of ours that the peer said it knows: we must be above it (R13) */
	tb_u64 counter;	     /* of the frame below */
	tb_u64 arrived_ns;   /* when it was stamped */
	tb_u64 echo;
	tb_u64 term;
	tb_u64 claim;
	tb_u64 fence_below;
	tb_u64 highest;
	tb_u64 sent_ns;
	tb_u64 echo_ns;
	tb_u32 lease_us;
	tb_u32 flags;
	tb_u8 type;
	tb_u8 link;
	tb_u8 role;
	tb_u8 admin;
	tb_u8 key_id; /* of the newest HELLO or PROBE: an ANSWER comes under the key of its PROBE */
	tb_u8 layouts;
	tb_u16 health;
	tb_u32 dead_us;
	tb_u32 lease_full_us;
	tb_u32 hello_us;
	tb_u32 verify_us;
	tb_u32 hold_us;
	tb_u32 generation;
	tb_u32 digest;
	tb_u8 keys[TB_KEYS];
	tb_u8 two_way; /* the newest HELLO or PROBE echoed a counter of ours that was fresh when it arrived */
	tb_u8 reserved;
	struct tb_proposal proposal; /* the newest one, whichever frame it came in */
};
TB_ASSERT(sizeof(struct tb_peer) == 192, "peer size");

/* Map "links", TB_LINKS entries, mmapable: the kernel's stamps. XDP writes, the engine reads. */
struct tb_link {
	tb_u64 hello_ns;	/* arrival of the newest accepted HELLO or PROBE */
	tb_u64 answer_ns;	/* arrival of the newest accepted ANSWER */
	tb_u64 hello_counter;	/* replay position of HELLO and PROBE */
	tb_u64 answer_counter;	/* replay position of ANSWER */
	tb_u64 answer_echo;	/* counter of the probe that the newest ANSWER answered */
	tb_u64 stranger_ns;	/* newest authentic frame whose epoch is not adopted: the peer restarted, probe it */
	tb_u64 mismatch_ns;	/* newest frame of our pair from the peer's address with an unknown key or version: a state of its own */
	tb_u64 foreign_ns;	/* newest frame that isn't Twinbeat's: proof that this interface hears somebody */
	tb_u64 challenge_ns;	/* when XDP last answered a PROBE of an epoch not adopted (rate limit) */
	tb_u64 accepted;	/* frames accepted */
	tb_u64 round_trip_ns;	/* newest, from an ANSWER or from echo and hold */
	tb_u32 cpu;		/* processor that ran the receive path last, + 1 */
	tb_u32 ifindex;		/* agent: 0 = slot unused */
	tb_u64 stranger_open_ns;/* newest such frame that said that the peer's gate is open */
	tb_u64 stranger_counter;/* and its counter: no frame says so twice */
	tb_u64 reserved[2];
};
TB_ASSERT(sizeof(struct tb_link) == 128, "link size");

/* Map "control", TB_CPUS entries, mmapable: arrival of the newest control frame, by receiving processor. */
struct tb_control {
	tb_u64 seen_ns;
	tb_u64 sent_ns; /* as written in that frame */
};
TB_ASSERT(sizeof(struct tb_control) == 16, "control size");

/* Map "ports", hash {ifindex, VLAN id}: which link a heartbeat belongs to, and what it must look like. */
struct tb_port_key {
	tb_u32 ifindex;
	tb_u32 vlan; /* 0 = untagged */
};
struct tb_port {
	tb_u8 link;	/* number of the link */
	tb_u8 ttl_min;	/* TTL or hop limit below it: refused */
	tb_u8 control;	/* 1 = receiving end of the private pair, takes CONTROL only */
	tb_u8 family;	/* 4 or 6: only frames to `local` are ours, others to our port pass; 0 = to any address */
	tb_u32 local[4];/* own address on the link, network order; IPv4 in the first word */
	tb_u32 peer[4]; /* the peer's address on the link, likewise; zeros = unknown */
};
TB_ASSERT(sizeof(struct tb_port) == 36, "port size");

/* Maps "vips4" (key: address, network order) and "vips6" (16 bytes): the addresses behind the gate. */
struct tb_vip {
	tb_u8 vrid;	/* 1-255 */
	tb_u8 vmac;	/* 1 = answered from the virtual MAC; 0 = from the port's own */
	tb_u16 reserved;
};
TB_ASSERT(sizeof(struct tb_vip) == 4, "vip size");

/* Map "vrids", 256 words of 32 bits: bit 0 = the IPv4 virtual MAC of that number is ours, bit 1 = the IPv6 one. */
enum tb_vrid_bit { TB_VRID_V4 = 1, TB_VRID_V6 = 2 };

/*
 * Map "counters", per CPU, (TB_LINKS + 1) * TB_REASONS words: those of link n begin at (n + 1) * TB_REASONS, and
 * what belongs to no link (the gate, the private pair, heartbeats where no link is) is counted in the first
 * TB_REASONS. Names: lower case, without the prefix, are metric labels.
 */
enum tb_reason {
	/* heartbeats */
	TB_R_HELLO = 0,	      /* accepted */
	TB_R_PROBE,	      /* accepted and answered */
	TB_R_ANSWER,	      /* accepted */
	TB_R_CONTROL,	      /* accepted */
	TB_R_LENGTH,	      /* refused: size */
	TB_R_MALFORMED,	      /* refused: magic, type, fragments, reserved bytes, inner lengths */
	TB_R_VERSION,	      /* refused: layout unknown */
	TB_R_PAIR,	      /* refused: another pair */
	TB_R_TTL,	      /* refused: TTL or hop limit too low */
	TB_R_OWN,	      /* refused: our own node index: a reflected frame, or two nodes with one index */
	TB_R_KEY,	      /* refused: key id not accepted */
	TB_R_AUTH,	      /* refused: MAC wrong */
	TB_R_REPLAY,	      /* refused: counter not newer */
	TB_R_STRANGER,	      /* not counted as life yet: authentic, but of an epoch not adopted */
	TB_R_WINDOW,	      /* refused: ANSWER to no probe of the running window */
	TB_R_LINK,	      /* refused: heartbeat on an interface or VLAN that is no link */
	TB_R_CHALLENGED,      /* answered a PROBE of an epoch not adopted */
	TB_R_SNAPSHOT_BUSY,   /* the peer's snapshot was being written on another processor */
	TB_R_FENCED,	      /* fence_below was raised by a claim */
	TB_R_CONTESTED,	      /* own gate shut: an open peer was heard */
	TB_R_CLEARED,	      /* contest over: the peer is fenced */
	TB_R_EXPIRED,	      /* fence_below was raised above an own expired term */
	TB_R_ADOPTED,	      /* epoch of the peer adopted */
	TB_R_BAD_LINK,	      /* refused: the agent wrote a link number that doesn't exist */
	TB_R_BAD_CPU,	      /* refused: a control frame on a processor beyond TB_CPUS */
	/* the gate, in */
	TB_R_IN_OPEN,	      /* let in: gate open */
	TB_R_IN_VMAC,	      /* dropped: to a virtual MAC */
	TB_R_IN_VIP,	      /* dropped: to a virtual address */
	TB_R_IN_ARP,	      /* dropped: ARP for a virtual address */
	TB_R_IN_ND,	      /* dropped: neighbour solicitation for a virtual address */
	/* the gate, out */
	TB_R_OUT_OPEN,	      /* let out: gate open */
	TB_R_OUT_VMAC,	      /* dropped: from a virtual MAC */
	TB_R_OUT_VIP,	      /* dropped: from a virtual address */
	TB_R_OUT_ARP,	      /* dropped: ARP in the name of a virtual address */
	TB_R_OUT_ND,	      /* dropped: neighbour advertisement for a virtual address */
	TB_R_OUT_LEAK,	      /* dropped though open: in the name of a virtual address from a MAC that isn't virtual */
	TB_R_OUT_REWRITTEN,   /* source MAC set to the virtual one */
	TB_REASONS,
};

/* Map "gaps", per CPU, TB_LINKS * TB_BUCKETS words: histogram of the time between two HELLOs of a link. */

/* clang-format on */
#endif /* TB_ABI_H */
