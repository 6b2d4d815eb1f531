-------------------------------- MODULE Replay --------------------------------
(* What a worker remembers of the jobs of one key set: enclave_worker/replay.py and keystore.py.

   The coordinator is the attacker: it hands any job over again, as whatever attempt, in several
   threads at once, takes it back at any moment, fills the memory, and has the worker start again.
   docs/models/channel.pv takes from here that a key set gives a job to one run.

   As in Jobs.tla each defence is a constant; tests/models/test_tla.py switches them off. *)
EXTENDS Naturals, FiniteSets

CONSTANTS
    Job, Attempt, Thread,
    Capacity,
    OneStep,          \* look for a job and take it under one lock
    JobsOnly,         \* know a job by its id, and not by an attempt that the coordinator chooses
    FullMeansNoMore,  \* a full memory ends the key set, instead of forgetting the oldest
    KeysDieToo,       \* a worker that starts again has forgotten its keys as well
    OneOfTwoWins      \* a job that is taken back does not start, one that started is not given out

VARIABLES
    alive,     \* whether this key set can still be used
    held,      \* names of jobs that are here and have not started
    spent,     \* names of jobs that started
    thread,    \* thread -> [state, job, attempt]
    runs,      \* job -> how often its kernel started under this key set
    results    \* job -> how many results were signed under this key set

vars == <<alive, held, spent, thread, runs, results>>

Name(j, a) == IF JobsOnly THEN <<j>> ELSE <<j, a>>
Of(t)      == Name(thread[t].job, thread[t].attempt)
Nobody     == "nobody"
Idle       == [state |-> "idle", job |-> Nobody, attempt |-> 0]
Known      == held \cup spent
Full       == Cardinality(Known) >= Capacity

Init ==
    /\ alive = TRUE /\ held = {} /\ spent = {}
    /\ thread = [t \in Thread |-> Idle]
    /\ runs = [j \in Job |-> 0] /\ results = [j \in Job |-> 0]

-----------------------------------------------------------------------------
Usable == alive /\ (FullMeansNoMore => ~Full)

Claim(t, j, a) ==
    /\ Usable /\ thread[t] = Idle /\ Name(j, a) \notin Known
    /\ IF OneStep
       THEN held' = held \cup {Name(j, a)} /\ thread' = [thread EXCEPT ![t] =
                [state |-> "held", job |-> j, attempt |-> a]]
       ELSE UNCHANGED held /\ thread' = [thread EXCEPT ![t] =
                [state |-> "looked", job |-> j, attempt |-> a]]
    /\ UNCHANGED <<alive, spent, runs, results>>

Take(t) ==
    /\ thread[t].state = "looked"
    /\ held' = held \cup {Of(t)}
    /\ thread' = [thread EXCEPT ![t].state = "held"]
    /\ UNCHANGED <<alive, spent, runs, results>>

Start(t) ==
    /\ thread[t].state = "held" \/ (~OneOfTwoWins /\ thread[t].state = "released")
    /\ thread' = [thread EXCEPT ![t].state = "running"]
    /\ held' = held \ {Of(t)}
    /\ spent' = spent \cup {Of(t)}
    /\ runs' = [runs EXCEPT ![thread[t].job] = @ + 1]
    /\ UNCHANGED <<alive, results>>

Release(t) ==
    /\ thread[t].state = "held"
    /\ thread' = [thread EXCEPT ![t].state = "released"]
    /\ held' = held \ {Of(t)}
    /\ UNCHANGED <<alive, spent, runs, results>>

Finish(t) ==
    /\ thread[t].state \in {"running", "released"}
    /\ results' = IF thread[t].state = "running" /\ alive
                  THEN [results EXCEPT ![thread[t].job] = @ + 1] ELSE results
    /\ thread' = [thread EXCEPT ![t] = Idle]
    /\ UNCHANGED <<alive, held, spent, runs>>

Forget ==
    /\ ~FullMeansNoMore /\ Full /\ spent # {}
    /\ \E name \in spent : spent' = spent \ {name}
    /\ UNCHANGED <<alive, held, thread, runs, results>>

StartAgain ==
    /\ alive' = (alive /\ ~KeysDieToo)
    /\ held' = {} /\ spent' = {}
    /\ thread' = [t \in Thread |-> Idle]
    /\ UNCHANGED <<runs, results>>

Next ==
    \/ \E t \in Thread : Take(t) \/ Start(t) \/ Release(t) \/ Finish(t)
    \/ \E t \in Thread, j \in Job, a \in Attempt : Claim(t, j, a)
    \/ Forget \/ StartAgain

\* How often is beyond counting once it is too often: a bound for the search.
Bounded == \A j \in Job : runs[j] <= 2

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
OneRun           == \A j \in Job : runs[j] <= 1
OneResult        == \A j \in Job : results[j] <= 1
MemoryIsBounded  == Cardinality(Known) <= Capacity
NothingIsUnknown == alive => \A t \in Thread : thread[t].state \in {"held", "running"} => Of(t) \in Known
TakenBackIsOver  == [][\A t \in Thread :
                        thread[t].state = "released" => thread'[t].state \in {"released", "idle"}]_vars
=============================================================================
