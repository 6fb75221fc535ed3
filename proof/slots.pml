/* The slot protocol (src/ring/slots.rs), with more threads than the model checker of the real types takes.
 *
 * Sequentially consistent: what weaker orders add is what loom and the design page are for. Publishers may stop for
 * good before any step of theirs. A slot holds two words, which both say the seq that wrote them. BLIND_CLAIM, NO_MARK and
 * NO_SECOND_LOOK are mutants.
 */
#ifndef P
#define P 3 /* publishers */
#endif
#ifndef E
#define E 2 /* events of each */
#endif
#ifndef R
#define R 2 /* readers */
#endif
#ifndef C
#define C 2 /* slots */
#endif
#ifndef SPINS
#define SPINS 1 /* looks at a slot in writing */
#endif
#ifndef STALLS
#define STALLS 1 /* publishers that may stop for good */
#endif
#define SLOT(seq) ((seq) % C)

byte head; /* the last claimed seq */
byte stamp[C]; /* seq * 2, plus 1 in writing */
byte word0[C], word1[C];
byte abandoned[C];
byte stalls; /* stopped for good so far */
byte running = P;

/* A publisher may stop for good here. */
inline here() {
    if
    :: skip
    :: atomic { stalls < STALLS -> stalls++; running--; goto stopped }
    fi
}

proctype publisher() {
    byte n, seq, slot, seen, spins;
    for (n : 1 .. E) {
        here();
        atomic { head++; seq = head; slot = SLOT(seq); spins = 0 }
        here();
        if
        :: seq > C -> seen = (seq - C) * 2
        :: else -> seen = 0
        fi;
        do
        :: true ->
            if
            :: (seen & 1) == 0 ->
                atomic {
                    if
#ifdef BLIND_CLAIM
                    :: true
#else
                    :: stamp[slot] == seen
#endif
                        -> stamp[slot] = seq * 2 + 1; goto writing
#ifndef BLIND_CLAIM
                    :: else -> seen = stamp[slot]
#endif
                    fi
                }
            :: else -> seen = stamp[slot]
            fi;
            if
            :: seen / 2 > seq -> goto done /* overrun */
            :: else
            fi;
            if
            :: spins == SPINS ->
#ifndef NO_MARK
                d_step { abandoned[slot] = (abandoned[slot] < seq -> seq : abandoned[slot]) };
#endif
                goto done
            :: else -> spins++
            fi
        od;
writing:
        here();
        word0[slot] = seq;
        here();
        word1[slot] = seq;
        here();
        assert(stamp[slot] == seq * 2 + 1); /* a slot in writing is nobody else's */
        stamp[slot] = seq * 2;
done:
        skip
    }
    running--;
stopped:
    skip
}

/* The newest seq that the head or `floor` tells of: what comes up to the lap before it is lost. */
inline lapped(floor) {
    d_step {
        next = (head > floor -> head : floor) - C + 1;
        floor = 0; a = 0; b = 0
    }
}

proctype reader() {
    byte next = 1, seen, a, b;
    bool quiet;
    do
    :: d_step {
            quiet = (running == 0); /* before the look: what is missing after that is missing for good */
            a = 0; b = 0;
            seen = stamp[SLOT(next)]
        };
        if
        :: seen == next * 2 ->
            a = word0[SLOT(next)];
            b = word1[SLOT(next)];
#ifndef NO_SECOND_LOOK
            seen = stamp[SLOT(next)]
#endif
        :: else
        fi;
        if
        :: seen == next * 2 ->
            d_step {
                assert(a == next && b == next); /* never torn, never another's */
                next++; seen = 0; a = 0; b = 0
            }
        :: seen / 2 > next ->
            d_step { seen = seen / 2; a = 0; b = 0 };
            lapped(seen)
        :: else ->
            d_step { seen = abandoned[SLOT(next)]; a = 0; b = 0 };
            if
            :: seen > next -> lapped(seen)
            :: seen == next -> next++
            :: seen < next && quiet -> break
            :: else
            fi
        fi
    od;
    /* All publishers are through: only the event of a stopped one may be missing. */
    assert(next == head + 1 || stalls > 0)
}

init {
    byte i;
    atomic {
        for (i : 1 .. P) { run publisher() }
        for (i : 1 .. R) { run reader() }
    }
}
