"""Bad input that is no lie: slips of users, machines that fail. Each has its code and its test."""

from typing import Final

from attrs import frozen

from tests.attacks.attack import HARMLESS, REVOKED

_SPINE = "tests/scenarios/test_spine.py"
_BAD = f"{_SPINE}::test_bad_input_is_refused_with_its_code_before_anything_is_sent"
_NUMPY = "tests/client/test_numpy_tensors.py"
_FILES = "tests/client/test_files_and_keys.py"
_ADMISSION = "tests/worker/test_admission.py"
_STOPPED = "tests/faults/test_stopped_peers.py"
_FLOODS = "tests/port/test_floods.py::test_a_flood_ends_at_the_share_of_one_account"
_CONNECTIONS = (
    "tests/port/test_handshakes.py"
    "::test_a_thousand_connections_that_mean_nothing_keep_nobody_waiting"
)
_LIARS = "tests/port/test_lying_workers.py"


@frozen
class BadInput:
    """One line: what is wrong, the code that somebody gets to see, and the test that says so."""

    what: str
    code: str
    test: str


BAD_INPUT: Final = (
    # -- tensors ----------------------------------------------------------------------------------
    BadInput("an array of objects", "tensor-dtype", f"{_BAD}[objects]"),
    BadInput("a structured array", "tensor-dtype", f"{_BAD}[structured]"),
    BadInput("dates", "tensor-dtype", f"{_BAD}[dates]"),
    BadInput("text", "tensor-dtype", f"{_BAD}[text]"),
    BadInput("ragged lists", "tensor-dtype", f"{_BAD}[ragged]"),
    BadInput(
        "a masked array",
        "tensor-dtype",
        f"{_NUMPY}::test_what_the_format_does_not_carry_is_refused[masked]",
    ),
    BadInput(
        "zero dimensions, where a kernel wants some", "shape-mismatch", f"{_BAD}[zero-dimensional]"
    ),
    BadInput("no elements, where a kernel wants some", "tensor-empty", f"{_BAD}[empty]"),
    BadInput(
        "an array with gaps or in another order",
        HARMLESS,
        f"{_SPINE}::test_big_endian_and_strided_arrays_arrive_as_what_they_mean",
    ),
    BadInput(
        "big-endian numbers",
        HARMLESS,
        f"{_NUMPY}::test_big_endian_values_are_converted_not_reinterpreted",
    ),
    BadInput(
        "NaN and infinity",
        HARMLESS,
        f"{_SPINE}::test_nan_and_infinity_travel_like_any_other_number",
    ),
    BadInput(
        "2^40 elements in a view that takes no memory",
        "tensor-too-large",
        f"{_NUMPY}::test_a_view_of_two_to_the_fortieth_elements_is_too_large",
    ),
    BadInput(
        "2^40 elements in a file of 100 bytes",
        "tensor-file",
        f"{_FILES}::test_a_shape_of_two_to_the_fortieth_in_a_small_file_reserves_nothing",
    ),
    BadInput(
        "2^40 elements in a job's header of 100 bytes",
        "worker-limit",
        f"{_ADMISSION}::test_a_header_that_announces_a_giant_tensor_allocates_nothing",
    ),
    BadInput(
        "more bytes in a job's header than any tensor has",
        "malformed",
        f"{_ADMISSION}::test_a_header_that_announces_more_than_any_tensor_has_is_malformed",
    ),
    BadInput(
        "a tensor larger than every worker takes",
        "too-large",
        f"{_SPINE}::test_a_tensor_larger_than_every_worker_takes_is_refused_before_it_is_sent",
    ),
    BadInput(
        "a tensor larger than this worker takes",
        "worker-limit",
        f"{_ADMISSION}::test_inputs_larger_than_the_worker_allows_are_refused_before_a_key_is_unwrapped",
    ),
    BadInput("a pickle", "tensor-file", f"{_FILES}::test_a_pickle_in_a_file_is_never_opened"),
    # -- programs ---------------------------------------------------------------------------------
    BadInput("shapes that do not fit each other", "shape-mismatch", f"{_BAD}[other-shapes]"),
    BadInput("another dtype than the kernel takes", "dtype-mismatch", f"{_BAD}[other-dtype]"),
    BadInput("a name that the program does not have", "input-unknown", f"{_BAD}[wrong-name]"),
    BadInput("an input left out", "input-missing", f"{_BAD}[missing-input]"),
    BadInput("an unknown kernel", "unknown-kernel", f"{_BAD}[unknown-kernel]"),
    BadInput("an unknown parameter", "parameter-unknown", f"{_BAD}[unknown-parameter]"),
    BadInput("a parameter out of its range", "parameter-out-of-range", f"{_BAD}[parameter-range]"),
    BadInput("a parameter of another type", "parameter-type", f"{_BAD}[parameter-type]"),
    BadInput("a parameter that does not fit the tensors", "rule-broken", f"{_BAD}[parameter-rule]"),
    # -- who is there -----------------------------------------------------------------------------
    BadInput(
        "a policy that no worker meets: says which check failed on which",
        "policy-unmet",
        f"{_SPINE}::test_a_policy_that_no_worker_meets_names_the_check_that_failed_on_each",
    ),
    BadInput(
        "no workers: says that it waits, then gives up",
        "no-worker",
        f"{_SPINE}::test_without_any_worker_submit_waits_says_so_and_gives_up",
    ),
    BadInput(
        "a coordinator that is down at the start",
        "coordinator-unreachable",
        f"{_SPINE}::test_a_coordinator_that_is_down_is_said_so_at_once",
    ),
    BadInput(
        "a coordinator that is killed and comes back",
        HARMLESS,
        f"{_SPINE}::test_durable_jobs_survive_a_coordinator_that_is_killed_and_started_again",
    ),
    BadInput(
        "a coordinator that is killed in the middle of an upload",
        HARMLESS,
        f"{_STOPPED}::test_an_upload_that_a_crash_interrupts_is_sealed_again_and_finishes",
    ),
    BadInput(
        "a coordinator that hangs",
        HARMLESS,
        f"{_STOPPED}::test_a_coordinator_that_hangs_for_longer_than_anybody_waits_goes_on_where_it_was",
    ),
    BadInput(
        "a coordinator that does not come back",
        "timeout",
        f"{_STOPPED}::test_jobs_at_a_coordinator_that_never_comes_back_end_at_their_deadline",
    ),
    BadInput(
        "a worker killed with a durable job",
        HARMLESS,
        f"{_SPINE}::test_a_durable_job_moves_to_another_worker_when_its_own_is_killed",
    ),
    BadInput(
        "a worker killed with a streaming job",
        HARMLESS,
        f"{_SPINE}::test_a_streaming_job_is_sealed_again_under_a_new_id_when_its_worker_is_killed",
    ),
    BadInput(
        "a job that kills every worker",
        "attempts-exhausted",
        "tests/coordinator/test_core.py::test_a_job_that_kills_workers_is_given_up",
    ),
    BadInput(
        "a disk that is full: new durable jobs are refused, none is lost",
        "spool-full",
        "tests/faults/test_disk_faults.py::test_a_full_disk_refuses_new_durable_jobs_loses_none_and_recovers",
    ),
    # -- others -----------------------------------------------------------------------------------
    BadInput(
        "a result for another job",
        "receipt-job-mismatch",
        "tests/attacks/test_results.py::test_the_result_of_another_job_is_refused",
    ),
    BadInput(
        "two clients with the same job id",
        "duplicate-job",
        "tests/attacks/test_routing.py::test_a_job_id_belongs_to_whoever_submitted_it_first",
    ),
    BadInput("a client that floods with jobs", "queue-full", f"{_FLOODS}[jobs]"),
    BadInput("a client that floods the disk", "spool-full", f"{_FLOODS}[disk, by promises]"),
    BadInput("a client that floods with wrapped keys", "queue-full", f"{_FLOODS}[wrapped keys]"),
    BadInput(
        "a client that floods the memory", "no-credit", f"{_FLOODS}[memory, by jobs that wait]"
    ),
    BadInput("1,000 connections that send nothing", HARMLESS, f"{_CONNECTIONS}[nothing]"),
    BadInput("1,000 connections that send garbage", HARMLESS, f"{_CONNECTIONS}[noise]"),
    BadInput(
        "a worker that lies about its capacity",
        HARMLESS,
        f"{_LIARS}::test_a_capacity_beyond_reason_is_cut_to_what_a_queue_holds",
    ),
    BadInput(
        "a worker that lies about its capacity and drops the jobs",
        HARMLESS,
        f"{_LIARS}::test_jobs_that_a_greedy_worker_took_and_dropped_move_on",
    ),
    BadInput(
        "a worker that returns a result for a job it never had",
        REVOKED,
        f"{_LIARS}::test_a_result_for_a_job_it_never_had_is_fenced",
    ),
)
