-------------------------------- MODULE Jobs --------------------------------
(* The life of a durable job, as coordinator/core keeps it (docs/protocol.md, steps 7, 8 and 11).

   The coordinator may crash at any moment: what it has committed stays, what it has only received
   or promised is gone. The network may lose, repeat and reorder every message. Workers may die, be
   slow, and wake up long after their lease was given to somebody else.

   Each defence can be switched off by a constant, and then TLC finds the history in which the
   invariant that it defends is broken: tests/models/test_tla.py runs every variant. *)
EXTENDS Naturals, FiniteSets

CONSTANTS
    Job, Worker,
    MaxAttempt,
    Fencing,          \* accept a result only from the current (attempt, worker)
    AckAfterCommit,   \* say ACCEPTED only when the job is on stable storage
    OneTransaction,   \* store result and receipt together
    ClientRemembers   \* hand a result to the client's code once per job

VARIABLES
    received,   \* volatile: jobs the coordinator has read from its socket and not committed
    table,      \* stable: job -> [state, attempt, owner]
    acked,      \* jobs whose client was told ACCEPTED
    results,    \* stable: set of <<job, attempt>>
    receipts,   \* stable: set of <<job, attempt>>
    half,       \* volatile: results stored whose receipt is still to be stored
    network,    \* every message ever sent: reading does not remove, so loss, repetition and
                \* reordering are all in the choice of what is read when
    running,    \* worker -> set of <<job, attempt>>
    handed      \* job -> how often the client's code was given a result

vars == <<received, table, acked, results, receipts, half, network, running, handed>>

NoOwner == "none"
Absent  == [state |-> "absent", attempt |-> 0, owner |-> NoOwner]

Init ==
    /\ received = {} /\ acked = {} /\ results = {} /\ receipts = {} /\ half = {} /\ network = {}
    /\ table = [j \in Job |-> Absent]
    /\ running = [w \in Worker |-> {}]
    /\ handed = [j \in Job |-> 0]

-----------------------------------------------------------------------------
Submit(j) ==
    /\ table[j].state = "absent" /\ j \notin received
    /\ received' = received \cup {j}
    /\ acked' = IF AckAfterCommit THEN acked ELSE acked \cup {j}
    /\ UNCHANGED <<table, results, receipts, half, network, running, handed>>

Commit(j) ==
    /\ j \in received
    /\ received' = received \ {j}
    /\ table' = [table EXCEPT ![j] = [state |-> "queued", attempt |-> 0, owner |-> NoOwner]]
    /\ acked' = acked \cup {j}
    /\ UNCHANGED <<results, receipts, half, network, running, handed>>

Lease(j, w) ==
    /\ table[j].state = "queued" /\ table[j].attempt < MaxAttempt
    /\ LET a == table[j].attempt + 1 IN
        /\ table' = [table EXCEPT ![j] = [state |-> "leased", attempt |-> a, owner |-> w]]
        /\ network' = network \cup {[kind |-> "assign", job |-> j, attempt |-> a, worker |-> w]}
    /\ UNCHANGED <<received, acked, results, receipts, half, running, handed>>

Expire(j) ==
    /\ table[j].state = "leased"
    /\ table' = [table EXCEPT ![j].state = "queued", ![j].owner = NoOwner]
    /\ UNCHANGED <<received, acked, results, receipts, half, network, running, handed>>

Start(m) ==
    /\ m.kind = "assign"
    /\ running' = [running EXCEPT ![m.worker] = @ \cup {<<m.job, m.attempt>>}]
    /\ UNCHANGED <<received, table, acked, results, receipts, half, network, handed>>

Finish(w, x) ==
    /\ x \in running[w]
    /\ running' = [running EXCEPT ![w] = @ \ {x}]
    /\ network' = network \cup {[kind |-> "result", job |-> x[1], attempt |-> x[2], worker |-> w]}
    /\ UNCHANGED <<received, table, acked, results, receipts, half, handed>>

Die(w) ==
    /\ running[w] # {}
    /\ running' = [running EXCEPT ![w] = {}]
    /\ UNCHANGED <<received, table, acked, results, receipts, half, network, handed>>

Current(m) ==
    /\ table[m.job].state = "leased"
    /\ table[m.job].attempt = m.attempt
    /\ table[m.job].owner = m.worker

Accept(m) ==
    /\ m.kind = "result"
    /\ IF Fencing THEN Current(m) ELSE table[m.job].state # "absent"
    /\ table' = [table EXCEPT ![m.job].state = "done"]
    /\ results' = results \cup {<<m.job, m.attempt>>}
    /\ IF OneTransaction
       THEN receipts' = receipts \cup {<<m.job, m.attempt>>} /\ UNCHANGED half
       ELSE half' = half \cup {<<m.job, m.attempt>>} /\ UNCHANGED receipts
    /\ UNCHANGED <<received, acked, network, running, handed>>

StoreReceipt(x) ==
    /\ x \in half
    /\ half' = half \ {x}
    /\ receipts' = receipts \cup {x}
    /\ UNCHANGED <<received, table, acked, results, network, running, handed>>

Deliver(j) ==
    /\ table[j].state = "done"
    /\ handed[j] < 2                        \* a bound for the search, not a defence
    /\ ClientRemembers => handed[j] = 0
    /\ handed' = [handed EXCEPT ![j] = @ + 1]
    /\ UNCHANGED <<received, table, acked, results, receipts, half, network, running>>

Crash ==
    /\ received' = {} /\ half' = {}
    /\ UNCHANGED <<table, acked, results, receipts, network, running, handed>>

Next ==
    \/ \E j \in Job : Submit(j) \/ Commit(j) \/ Expire(j) \/ Deliver(j)
    \/ \E j \in Job, w \in Worker : Lease(j, w)
    \/ \E m \in network : Start(m) \/ Accept(m)
    \/ \E w \in Worker : Die(w) \/ \E x \in running[w] : Finish(w, x)
    \/ \E x \in half : StoreReceipt(x)
    \/ Crash

Spec == Init /\ [][Next]_vars

-----------------------------------------------------------------------------
Of(j, set) == {x \in set : x[1] = j}

OneAcceptedResult      == \A j \in Job : Cardinality(Of(j, results)) <= 1
OneReceiptPerJob       == \A j \in Job : Cardinality(Of(j, receipts)) <= 1
NothingAcknowledgedIsLost == \A j \in acked : table[j].state # "absent" \/ j \in received
ResultHasItsReceipt    == \A x \in results : x \in receipts \/ x \in half
HandedOnce             == \A j \in Job : handed[j] <= 1
DoneStaysDone          == [][\A j \in Job : table[j].state = "done" => table'[j].state = "done"]_vars
=============================================================================
