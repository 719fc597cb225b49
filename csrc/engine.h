/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's decision, as a pure function: engine_step(state, now, input) -> actions.
 *
 * It reads no clock, owns no socket, allocates nothing and keeps all it knows in struct tb_engine. In
 * production one SCHED_FIFO thread drives it (thread.c); tests and the simulator drive it with a clock of
 * their own. Rules R1-R22 are those of deploy/docs/protocol.md.
 *
 * Contract of a round, for whoever drives it:
 *   1. read `now`, then fill tb_input (maps, carrier, order), in that order: `now` is older than what was read;
 *   2. tb_engine_step();
 *   3. carry the actions out in the order of the fields of tb_actions, and note in tb_input.probes_sent if a PROBE left;
 *   4. if `again` is set, start over at once (a claim was sent and the answer decides); otherwise sleep
 *      until `wake_ns`.
 */
#ifndef TB_ENGINE_H
#define TB_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tb_abi.h"

/* Tables of fields and numbers, one to a line with what it means. */
/* clang-format off */
/* Everything in ns. */
struct tb_timers {
	tb_u64 hello;
	tb_u64 dead;
	tb_u64 verify;
	tb_u64 stall;  /* how long a stalled agent behind an open gate is waited for */
	tb_u64 lease;
};

struct tb_settings {
	struct tb_timers timers;
	tb_u64 late;	    /* a tick later than this is late: it restarts the verify window */
	tb_u64 idle_claim;  /* R8: how long a peer may be heard without serving (preferred node; the other waits twice as long plus verify) */
	tb_u64 listen;	    /* R10: how long a node that has no living reign listens before it may claim by silence */
	tb_u64 boot_wait;   /* R8: how long, from its first frame, a peer that starts as this node did and goes first is waited for */
	tb_u64 mismatch_wait; /* R14: how much longer frames refused for their key or version keep such a node from that */
	tb_u64 witness;	    /* how long the word of the peer or of the witness is good for; 0 = there is no witness */
	tb_u32 node;	    /* own index, 0 or 1 */
	tb_u32 links;	    /* mask of configured links */
	tb_u32 direct;	    /* mask of those that are a cable between the nodes: count for nothing in the isolation check */
	tb_u32 ports;	    /* number of VIP ports whose carrier is in tb_input.port_carrier */
	tb_u32 probes;	    /* on-time unanswered probes that a DEAD verdict needs on each link that has carrier */
	bool strict;	    /* R7: silence opens only after the peer's last lease */
	bool wait_lease;    /* R9: STALLED with an open gate: wait for the lease's end instead of `stall` */
	bool claim_alone;   /* R10: claim though the peer was never heard and no link is proven */
};

/* What the standing order permits. */
enum tb_permit {
	TB_MAY_SERVE = 1u << 0,	      /* keep a reign: renew the lease */
	TB_MAY_CLAIM_DEAD = 1u << 1,  /* on a verdict of DEAD */
	TB_MAY_CLAIM_STALLED = 1u << 2, /* on a verdict of STALLED, by receipt */
	TB_MAY_CLAIM_IDLE = 1u << 3,  /* R8: the peer is heard and doesn't serve */
	TB_MAY_CLAIM_YIELD = 1u << 4, /* the peer asks for it (planned switch-over) */
	TB_MAY_CLAIM_COLD = 1u << 5,  /* R10: nobody was heard for the time of a cold start */
	TB_CLAIM_NOW = 1u << 6,	      /* by receipt, once for this generation (forced failover, taking the role back) */
	TB_YIELD = 1u << 7,	      /* say YIELD in every frame as long as this stands and the gate is open */
	TB_PREFERRED = 1u << 8,	      /* R8's shorter wait */
	TB_PAUSED = 1u << 9,	      /* nothing new is claimed; renewing and earning a reign again go on */
	TB_RESUME = 1u << 10,	      /* R16: a reign found open in the gate at start may be resumed */
	TB_UNHEARD = 1u << 11,	      /* nothing is claimed in silence if the peer was heard since `heard` */
};

/* The standing order: what Python allows the engine to do by itself. Replaced whole. */
struct tb_order {
	tb_u64 generation;	/* grows with each order */
	tb_u64 expires_ns;	/* void from then on, 0 = void */
	tb_u64 attested_until_ns; /* Python's attestation, renewed from the loop that decides */
	tb_u64 term_first;	/* block of terms reserved on disk: [first, last]; first > last = none; all seen by earlier runs lie below */
	tb_u64 term_last;
	tb_u64 lease_ns;	/* 0 = settings' lease; longer during a planned restart */
	tb_u32 permits;		/* enum tb_permit */
	tb_u32 resign_of;	/* generation (low 32 bits) of a demand to shut the gate at once; 0 = none */
	tb_u64 heard;		/* counter of the newest frame of the peer when what the order rests on was found out */
	tb_u64 pause_until_ns;	/* with PAUSED in `flags`: the end of the pause, whether Python runs then or not; 0 = it has none */
	/* Facts for the frames. */
	tb_u32 flags;		/* enum tb_flag that Python knows: PAUSED RESTART FIT STARTING PREFERRED NEVER_CLAIMS PAUSE_ACK ISOLATED NEWBORN */
	tb_u8 role;
	tb_u8 admin;
	tb_u16 health;
	tb_u32 generation_shared; /* of the shared configuration */
	tb_u32 digest;
	struct tb_proposal proposal; /* of other intervals, number 0 = none */
};

/* What the witness said, as far as Python judged it. Never waited for; replaced whole. */
struct tb_witness {
	tb_u64 term;	 /* the own term that the two times are about, 0 = none */
	tb_u64 until_ns; /* it was kept by the witness for a request sent `witness` before this moment */
	tb_u64 open_ns;	 /* from then on nobody serves under the word of an older one; 0 = not granted */
	tb_u64 before;	 /* what was kept until that term was */
	tb_u64 kept;	 /* the highest term known to be kept there */
	tb_u64 absent;	 /* 1 = the witness is silent, and the policy is to go on as without one */
};

/* What the round sees. Copies, so that a step is one consistent view. */
struct tb_input {
	struct tb_gate gate;
	struct tb_peer peer;
	struct tb_link link[TB_LINKS];
	struct tb_order order;
	struct tb_witness witness;
	tb_u64 looked_ns;     /* the clock once the gate's words had been read; 0 = it stood still meanwhile */
	tb_u64 probes_sent;   /* rounds so far whose PROBEs left, on one link at least, or were kept back by want of carrier alone; only grows */
	tb_u64 control_ns;    /* oldest of the newest control stamps over the processors that ran a link's receive path */
	tb_u32 link_carrier;  /* mask; looked up before the first step, whenever the last step set want_carrier, and each 100 ms */
	tb_u32 port_carrier;  /* mask of VIP ports with carrier */
};

enum tb_phase { TB_LISTENING = 0, TB_CLAIMING, TB_SERVING };
enum tb_watch { TB_ALIVE = 0, TB_SUSPECT, TB_STALLED, TB_DEAD, TB_UNKNOWN /* never heard */ };

/* Why a claim was begun, why it ended, why a reign ended: codes for events, in one numbering. */
enum tb_cause {
	TB_C_NONE = 0,
	/* begun */
	TB_C_DEAD, TB_C_STALLED, TB_C_IDLE, TB_C_YIELDED, TB_C_COLD, TB_C_ORDERED, TB_C_RENEW, TB_C_DEAF, TB_C_RESUMED,
	/* opened by */
	TB_C_RECEIPT, TB_C_SILENCE, TB_C_LEASE_RAN_OUT,
	/* ended */
	TB_C_FENCED, TB_C_EXPIRED, TB_C_CONTEST_LOST, TB_C_RESIGNED, TB_C_STRANDED_ISOLATED, TB_C_ORDER_VOID, TB_C_GATE_LOST,
	/* refused or abandoned */
	TB_C_NO_RECEIPT, TB_C_OVERTAKEN, TB_C_BLOCK_SPENT, TB_C_ISOLATED, TB_C_NO_CONTROL, TB_C_PEER_SERVES,
	TB_C_NOT_PERMITTED, TB_C_PEER_LEASE, TB_C_MISMATCH, TB_C_UNPROVEN,
	/* begun, too */
	TB_C_DESPITE_MISMATCH,
	/* opened by, the witness having granted it; ended or withheld, as neither peer nor witness gave their word */
	TB_C_WITNESSED, TB_C_NO_WITNESS,
	/* refused, too */
	TB_C_PEER_STARTS,
};

enum tb_event_kind {
	TB_E_HEARD = 1,	  /* peer heard for the first time or again; a = counter */
	TB_E_SUSPECT,	  /* a = silence ns */
	TB_E_CLEARED,	  /* suspicion over: the agent speaks; a = length ns */
	TB_E_STALLED,	  /* verdict; a = 1 if the kernel said open */
	TB_E_DEAD,	  /* verdict; a = silence ns, b = probes unanswered */
	TB_E_WITHHELD,	  /* no verdict or no claim though silent; cause says why (edge only) */
	TB_E_CLAIM,	  /* a = term, cause; b = 1 if a higher term than the one served was seen (R18) */
	TB_E_RECEIPT,	  /* a = term, b = ns since the claim */
	TB_E_OPENED,	  /* a = term, cause = receipt | silence | lease ran out, b = cause of the claim */
	TB_E_ANNOUNCED,	  /* written by the thread: first announcement handed to the driver; a = frames */
	TB_E_ABANDONED,	  /* a = term, cause */
	TB_E_CLOSED,	  /* a = term, cause, b = term that overtook it */
	TB_E_LINK_SILENT, /* link; a = silence ns */
	TB_E_LINK_HEARD,  /* link */
	TB_E_LATE,	  /* a tick was late; a = ns (rate-limited to one per 100 ms, b = how many) */
	TB_E_TERM_LOW,	  /* few terms left in the block; a = left */
	TB_E_ORDER,	  /* an order took effect; a = generation, b = 1 if a claim was under way or made before it */
	TB_E_COUNTER_JUMP,/* the peer knew a higher counter of ours; a = new counter */
	TB_E_PEER_CHANGED,/* role, term, flags or health of the peer changed; a = term, b = flags */
	TB_E_CONTESTED,	  /* own gate shut by XDP; a = peer's term */
	TB_E_REOPENED,	  /* contest over */
};

struct tb_event {
	tb_u64 at_ns;
	tb_u64 a;
	tb_u64 b;
	tb_u16 kind;  /* enum tb_event_kind */
	tb_u16 cause; /* enum tb_cause */
	tb_u16 link;
	tb_u16 reserved;
};

/*
 * What becomes of an event that is pushed. Passing ones wake nobody. Rationed ones say something of the peer alone,
 * and may come with each heartbeat of a network or a host that fails: the engine wakes Python for them in bursts, and
 * otherwise so many times a second. After the others roles, terms or orders may be different ones.
 */
enum tb_urgency { TB_PASSING, TB_RATIONED, TB_URGENT };
tb_u32 tb_event_urgency(tb_u32 kind); /* enum tb_urgency */

enum tb_engine_limits { TB_STEP_EVENTS = 32 };
_Static_assert(TB_E_REOPENED + TB_LINKS <= TB_STEP_EVENTS, "one of each kind, and one of each link");

/* To be carried out in the order of the fields. */
struct tb_actions {
	/* 1. the gate */
	bool shut;	       /* term := 0, before anything is sent */
	bool open;	       /* term := term, then open_until := open_until */
	bool renew;	       /* open_until := open_until */
	bool jump;	       /* counter := max(counter, jump_to) */
	tb_u64 term;
	tb_u64 open_until;
	tb_u64 jump_to;
	/* 2. announcements, straight after an opening */
	bool announce;
	bool announce_stop;
	/* 3. the words for the kernel */
	bool write_self;
	struct tb_self self;
	/* 4. frames */
	tb_u32 hello;	       /* mask of links to send a HELLO on */
	tb_u32 probe;	       /* mask of links to send a PROBE on (it counts as HELLO too) */
	struct tb_proposal proposal; /* for the HELLOs of this round, number 0 = none */
	bool control;	       /* a control frame from every processor that ran a receive path */
	tb_u64 echo;	       /* for the frames: newest counter accepted, its sent_ns and arrival */
	tb_u64 echo_ns;
	tb_u64 echo_arrived_ns;
	/* 5. */
	bool again;
	bool want_carrier;
	tb_u64 wake_ns;
	bool wake_python;      /* the budget allows it now: for those of these events, and of earlier ones, that wait for it */
	tb_u32 waiting;	       /* so many of these events are rationed and wait with all earlier ones: Python isn't woken for them yet */
	tb_u32 untold;	       /* so many more events found no room here */
	tb_u32 events;
	struct tb_event event[TB_STEP_EVENTS];
};

enum { TB_RING = 64 };

/* All the engine knows between two steps. Readable by Python through a copy; written by tb_engine_step alone. */
struct tb_engine {
	struct tb_settings settings;
	tb_u32 phase; /* enum tb_phase */
	tb_u32 watch; /* enum tb_watch: what is known of the peer's agent */

	/* time */
	tb_u64 started_ns, expected_ns, next_hello_ns, next_probe_ns, next_ping_ns;
	tb_u64 late_untold, late_told_ns;

	/* terms */
	tb_u64 term;	  /* served, 0 = none */
	tb_u64 last_term; /* newest own number used: never again */
	tb_u64 highest;	  /* newest seen of anybody */
	tb_u64 low_told;  /* term_last of the block whose end was announced */

	/* claim: while LISTENING none, while SERVING one may run to earn the reign again (R3, R18) */
	tb_u64 claim; /* 0 = none */
	tb_u64 claim_ns, backoff_until_ns;
	tb_u32 claim_cause; /* enum tb_cause */
	tb_u32 fruitless;   /* claims in a row that got no receipt though the peer was heard */

	/* reign */
	tb_u64 served;	      /* newest term served in this run */
	tb_u64 peer_word_ns;  /* when the newest own frame was sent that the peer, knowing of no higher term, echoed */
	tb_u64 opened_ns, lease_until, contest_told_ns, stranger_since_ns;
	bool receipted, by_silence, order_seen;
	tb_u64 order_generation, ordered_generation;
	tb_u32 resigned;

	/* the peer */
	tb_u64 heard_ns;	/* newest accepted HELLO or PROBE over all links, 0 = not since the start */
	tb_u64 answered_ns;	/* newest accepted ANSWER */
	tb_u64 idle_since_ns;	/* heard without serving or claiming, 0 = not so */
	tb_u64 met_ns;		/* when it was first heard, 0 = not since the start */
	bool served_by_peer;	/* its gate was open since our start */
	tb_u64 deaf_since_ns;	/* says that it doesn't hear us and serves nothing, 0 = not so */
	tb_u64 open_until_ns;	/* by our clock: the last end of a lease that it told or could have begun */
	tb_u64 first_epoch;	/* of the peer, of all that this node's kernel or disk know, 0 = none yet */
	tb_u64 told;		/* role, flags, health and term as last told by an event */

	/* suspicion */
	tb_u64 doubt_ns; /* since when the peer has been asked though no suspicion is told yet, 0 = it isn't */
	tb_u64 suspect_ns, window_ns, verdict_ns, probe_from;
	tb_u64 probes_sent; /* of the input, as last seen */
	tb_u32 window_probes, window_restarts, withheld;
	tb_u32 asked;	  /* PROBEs of this suspicion, in rounds */
	bool probe_counts; /* that of the round before was on time and in the window: it counts if it left */
	bool answer_open; /* an ANSWER of this suspicion said "open" */

	/* Python's budget */
	tb_u64 paid_until_ns; /* wake-ups for rationed events are paid for up to here: each is good for a while */
	bool unheeded;	      /* rationed events wait in the ring */

	/* links */
	tb_u32 link_silent; /* mask told as silent */
	tb_u32 two_way;	    /* mask of links that ever answered a probe */

	/* intervals: those kept at this moment, on the way to those of the settings */
	tb_u64 hello, dead;
	tb_u64 told_dead;      /* as the kernel's words and the frames say it */
	tb_u64 told_dead_from; /* every own counter from this one on says so; 0 = not yet known */
	tb_u64 restart_from;   /* R16: every own counter from this one on says that a restart is planned; 0 = not yet known */
	bool restart_said;     /* as the kernel's words and the frames say it */
	bool restart_known;    /* the peer has answered one of those frames */
	tb_u64 lease_given;    /* to which the gate was renewed last: half of that is too late (R3) */
	tb_u32 hellos;	       /* sent since the last proposal */

	/* own counters by time, to know which echo is fresh */
	tb_u64 ring_counter[TB_RING], ring_ns[TB_RING];
	tb_u32 ring_at;
};

/* clang-format on */

/*
 * Begin as a node that knows nothing: LISTENING, term 0. `gate` is what the pinned map holds: if a reign is
 * open there and the first order has TB_RESUME, the first step resumes it (R16), otherwise it is shut.
 */
void tb_engine_init(struct tb_engine *engine, const struct tb_settings *settings, tb_u64 now);

/* Take new settings into effect without forgetting anything (profile change, reload). */
void tb_engine_configure(struct tb_engine *engine, const struct tb_settings *settings);

/* One round. */
void tb_engine_step(struct tb_engine *engine, tb_u64 now, const struct tb_input *input,
		    struct tb_actions *actions);

/*
 * What is left of a pause, as a frame's flags have it (TB_PAUSE_LEFT) and back: never less than it was, nor more by
 * more than a 32nd and a millisecond. The longest is 63 << 30 ms; what is longer is said as that.
 */
tb_u32 tb_pause_said(tb_u64 left_ns);
tb_u64 tb_pause_left_ns(tb_u32 flags);

#endif /* TB_ENGINE_H */
