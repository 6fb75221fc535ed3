/* The list of waiting readers (src/wait.rs) with publishers that have only a compiler fence between their commit and
 * their look at `awaited`: a commit lies in a store buffer until it is flushed, by itself, by a locked instruction of
 * its publisher, or by the barrier of a reader, which comes to one processor after the other.
 *
 * A reader that sleeps beside an event is an invalid end state. NO_BARRIER, STAYS_ARMED and NO_COUNT are mutants.
 */
#ifndef P
#define P 2 /* publishers */
#endif
#ifndef E
#define E 2 /* events of each */
#endif
#ifndef R
#define R 2 /* readers */
#endif
#define NOTHING 0
#define RESUME 1
#define WALK 2

byte issued[P], visible[P]; /* commits of a publisher, and those that have left its store buffer */
bool awaited;
byte requested;
bool locked;
/* Under the lock. */
bool waker[R];
byte waiting, next, left, rests;
bool armed;
bool woken[R];

/* All commits that can be seen. With P at most 3. */
#if P == 1
#define SEEN (visible[0])
#elif P == 2
#define SEEN (visible[0] + visible[1])
#else
#define SEEN (visible[0] + visible[1] + visible[2])
#endif

active proctype buffers() {
    byte p;
end:
    do
    :: atomic { issued[0] > visible[0] -> visible[0] = issued[0] }
#if P > 1
    :: atomic { issued[1] > visible[1] -> visible[1] = issued[1] }
#endif
#if P > 2
    :: atomic { issued[2] > visible[2] -> visible[2] = issued[2] }
#endif
    od
}

/* Serves what is requested for as long as the lock is free, one waker at a time. */
inline serve() {
    do
    :: requested == NOTHING -> break
    :: else ->
        if
        :: atomic { !locked -> locked = true }
        :: atomic { locked -> break }
        fi;
        d_step {
            if
            :: requested == WALK -> left = R
            :: else
            fi;
            in_vain = (requested == WALK && waiting == 0);
            requested = NOTHING
        };
        if
        :: in_vain && awaited ->
#ifdef STAYS_ARMED
            d_step { rests++; awaited = false }
#else
            d_step { rests++; armed = false; awaited = false }
#endif
        :: else
        fi;
        d_step {
            taken = R;
            do
            :: taken == R && left > 0 && waiting > 0 ->
                if
                :: waker[next] -> waker[next] = false; waiting--; taken = next
                :: else
                fi;
                next = (next + 1) % R;
                left--
            :: else -> break
            od;
            if
            :: waiting == 0 -> left = 0
            :: else
            fi
        };
        if
        :: left > 0 -> d_step { requested = (requested < RESUME -> RESUME : requested) }
        :: else
        fi;
        locked = false;
        if
        :: taken < R -> woken[taken] = true
        :: else
        fi
    od
}

proctype publisher(byte me) {
    byte n, taken;
    bool in_vain;
    for (n : 1 .. E) {
        issued[me]++;
        if
        :: awaited ->
            /* A locked instruction: the buffer is empty after it. */
            d_step { visible[me] = issued[me]; requested = WALK };
            serve()
        :: else
        fi
    }
}

proctype reader(byte me) {
    byte seen, mine, taken, p;
    bool certain, in_vain;
    do
    :: seen == P * E -> break
    :: else ->
        if
        :: SEEN > seen -> seen = SEEN
        :: else ->
            atomic { !locked -> locked = true };
            d_step {
                waker[me] = true; waiting++; woken[me] = false;
                certain = armed; mine = rests
            };
            awaited = true;
            locked = false;
            serve();
            if
            :: certain
            :: else ->
#ifndef NO_BARRIER
                for (p : 0 .. P - 1) { d_step { visible[p] = issued[p] } }
#endif
                atomic { !locked -> locked = true };
#ifdef NO_COUNT
                armed = true;
#else
                armed = armed || rests == mine;
#endif
                locked = false;
                serve()
            fi;
            if
            :: SEEN > seen ->
                atomic { !locked -> locked = true };
                d_step {
                    if
                    :: waker[me] -> waker[me] = false; waiting--
                    :: else
                    fi
                };
                locked = false;
                serve()
            :: else -> woken[me] /* sleeps */
            fi
        fi
    od
}

init {
    byte i;
    atomic {
        for (i : 0 .. P - 1) { run publisher(i) }
        for (i : 0 .. R - 1) { run reader(i) }
    }
}
