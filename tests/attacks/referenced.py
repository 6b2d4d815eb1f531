"""Attacks whose tests live beside the part that refuses them. Those of this folder are in code."""

from tests.attacks.attack import DROPPED, HARMLESS, REVOKED, Row

_TPM = "tests/appraisal/test_tpm.py"
_VERIFIER = "tests/appraisal/test_verifier.py"
_SESSION = "tests/sealing/test_session_exchange.py"
_CLIENT_SESSION = "tests/wire/test_client_session.py"
_WORKER_SESSION = "tests/wire/test_worker_session.py"
_TENSOR = "tests/sealing/test_tensor_attacks.py"
_FLOE = "tests/sealing/test_floe.py"
_RECEIPT = "tests/receipts/test_verification.py"
_BATCH = "tests/receipts/test_signed_batch.py"
_ADMISSION = "tests/worker/test_admission.py"
_EXECUTOR = "tests/worker/test_executor.py"
_KEYSTORE = "tests/worker/test_keystore.py"
_HOSTILE = "tests/client/test_hostile_coordinator.py"
_CORE = "tests/coordinator/test_core.py"
_BROKER = "tests/coordinator/test_broker.py"
_SPINE = "tests/scenarios/test_spine.py"
_HANDSHAKES = "tests/port/test_handshakes.py"
_FRAMES = "tests/port/test_frames.py"
_IDENTITIES = "tests/port/test_identities.py"
_CREDIT = "tests/port/test_credit.py"
_LYING = "tests/port/test_lying_workers.py"
_FLOODS = "tests/port/test_floods.py"
_BLINDNESS = "tests/blindness/test_coordinator_sees_nothing.py"
_REFUSALS = "tests/blindness/test_refusals.py"
_RESIDUE = "tests/residue/test_jobs.py"
_SESSIONS = "tests/residue/test_sessions.py"
_CORES = "tests/residue/test_core_dumps.py"

# id, attack, guarantee, refused with, test
_ROWS: tuple[tuple[str, str, str, str, str], ...] = (
    # -- evidence ----------------------------------------------------------------------------------
    (
        "foreign-signature",
        "Sign a quote with another key than the one it shows",
        "G2",
        "signature-invalid",
        f"{_TPM}::test_a_quote_signed_by_another_key_is_refused",
    ),
    (
        "stolen-certificate",
        "Show a genuine TPM's certificate beside a key of one's own",
        "G2",
        "ak-certificate-mismatch",
        f"{_TPM}::test_a_forged_attestation_key_with_a_stolen_certificate_is_refused",
    ),
    (
        "own-root",
        "Bring one's own root certificate with the evidence",
        "G2",
        "ak-not-endorsed",
        f"{_TPM}::test_a_root_that_comes_with_the_evidence_is_not_an_anchor",
    ),
    (
        "certification-as-quote",
        "Show another structure that the same key signed",
        "G2",
        "not-a-quote",
        f"{_TPM}::test_a_certification_signed_by_the_same_key_is_not_a_quote",
    ),
    (
        "unrestricted-key",
        "Attest with a key that signs whatever it is given",
        "G2",
        "ak-attributes",
        f"{_TPM}::test_a_key_that_could_sign_foreign_bytes_is_refused",
    ),
    (
        "other-image",
        "Boot something else",
        "G2",
        "pcr-not-accepted",
        f"{_TPM}::test_a_machine_that_booted_something_else_is_refused",
    ),
    (
        "renumbered-pcrs",
        "List good PCR values under other numbers",
        "G2",
        "pcr-selection-mismatch",
        f"{_TPM}::test_pcr_values_under_other_numbers_are_refused",
    ),
    (
        "later-nonce-root",
        "Put the root of other Challenges into evidence that was signed before",
        "G3",
        "binding-mismatch",
        f"{_TPM}::test_a_nonce_root_put_in_later_is_refused",
    ),
    (
        "relabelled-evidence",
        "Pass evidence that nothing signed off as a TPM's",
        "G9",
        "malformed",
        f"{_VERIFIER}::test_insecure_evidence_relabelled_as_a_tpms_is_refused",
    ),
    (
        "neighbours-path",
        "Prove a Challenge with the path of another one in the same window",
        "G3",
        "nonce-mismatch",
        f"{_CLIENT_SESSION}::test_the_path_of_another_client_in_the_same_window_is_refused",
    ),
    (
        "made-up-path",
        "Prove a Challenge with a made-up path",
        "G3",
        "nonce-mismatch",
        "tests/properties/test_evidence.py::test_no_made_up_path_makes_a_foreign_challenge_fresh",
    ),
    (
        "swapped-replies",
        "Give each of two workers' replies out as the other's",
        "G3",
        "nonce-mismatch",
        f"{_HOSTILE}::test_evidence_swapped_between_two_workers_opens_no_session",
    ),
    (
        "unnamed-catalogue",
        "Attest kernels that the client's policy does not name",
        "G5",
        "catalogue-not-accepted",
        f"{_VERIFIER}::test_a_catalogue_that_the_policy_does_not_name_is_refused",
    ),
    (
        "long-lived-keys",
        "Attest keys that live longer than the policy allows",
        "G3",
        "keyset-life-too-long",
        f"{_VERIFIER}::test_a_key_set_that_lives_too_long_is_refused",
    ),
    (
        "reattested-keys",
        "Have keys that leaked attested again for a new Challenge",
        "G2",
        "protocol-misuse",
        "tests/attester/test_collect.py::test_a_key_set_is_never_attested_a_second_time",
    ),
    (
        "hand-made-recipient",
        "Seal to a key that no appraisal accepted",
        "G2",
        "protocol-misuse",
        f"{_VERIFIER}::test_a_recipient_key_cannot_be_made_by_hand",
    ),
    # -- sessions ----------------------------------------------------------------------------------
    (
        "zeroed-classical-share",
        "Zero the X25519 half of the key exchange",
        "G8",
        "not-authentic",
        f"{_SESSION}::test_session_with_a_zeroed_classical_share_does_not_open",
    ),
    (
        "small-order-key",
        "Attest an X25519 key of small order, whose shared secret is known",
        "G8",
        "malformed",
        f"{_SESSION}::test_classical_key_of_small_order_is_refused",
    ),
    (
        "invalid-mlkem-key",
        "Attest an ML-KEM key outside its modulus",
        "G8",
        "malformed",
        f"{_SESSION}::test_mlkem_key_outside_its_modulus_is_refused",
    ),
    (
        "opening-for-another-worker",
        "Hand an opening to another worker than the one it is sealed to",
        "G2",
        "not-authentic",
        f"{_SESSION}::test_session_sealed_to_another_worker_does_not_open",
    ),
    (
        "squatted-session-id",
        "Open a session under the id of another client's session",
        "G11",
        "queue-full",
        "tests/worker/test_sessions_and_windows.py::test_a_session_id_in_use_is_refused",
    ),
    (
        "opening-before-evidence",
        "Open a session that was never attested",
        "G9",
        "protocol-violation",
        f"{_WORKER_SESSION}::test_an_opening_before_the_evidence_is_refused",
    ),
    (
        "early-wrap",
        "Have a key wrapped before the worker confirmed",
        "G1",
        "protocol-misuse",
        f"{_CLIENT_SESSION}::test_no_key_is_wrapped_before_the_worker_confirmed",
    ),
    (
        "evicted-key-sets",
        "Flood a worker with Challenges until it forgets the keys that clients use",
        "G11",
        "queue-full",
        f"{_KEYSTORE}::test_a_flood_does_not_take_a_key_set_whose_client_is_still_appraising",
    ),
    # -- wraps -------------------------------------------------------------------------------------
    (
        "wrap-of-another-session",
        "Swap the wraps of two workers",
        "G1",
        "unknown-session",
        f"{_ADMISSION}::test_a_wrap_of_an_unknown_session_is_refused",
    ),
    (
        "wrap-of-another-job",
        "Replay a wrapped key for another job",
        "G4",
        "not-authentic",
        f"{_SESSION}::test_wrap_replayed_for_another_job_is_refused",
    ),
    (
        "changed-wrap",
        "Change a byte of a wrapped key",
        "G4",
        "not-authentic",
        f"{_ADMISSION}::test_a_changed_wrap_is_refused",
    ),
    (
        "two-content-keys",
        "Wrap another content key than the committed one, to have one ciphertext read in two ways",
        "G4",
        "not-authentic",
        f"{_ADMISSION}::test_a_content_key_other_than_the_committed_one_is_refused",
    ),
    # -- requests ----------------------------------------------------------------------------------
    (
        "foreign-envelope",
        "Hand a job over under another job's id",
        "G4",
        "malformed",
        f"{_ADMISSION}::test_an_envelope_under_another_job_id_is_refused",
    ),
    (
        "body-of-another-job",
        "Put the sealed program of another job into an envelope",
        "G5",
        "not-authentic",
        f"{_ADMISSION}::test_the_body_of_another_job_is_refused",
    ),
    (
        "other-program",
        "Seal another program than the one that was signed",
        "G5",
        "program-invalid",
        f"{_ADMISSION}::test_another_program_than_the_signed_one_is_refused",
    ),
    (
        "other-parameters",
        "Seal other parameters than those that were committed to",
        "G5",
        "program-invalid",
        f"{_ADMISSION}::test_other_parameters_than_the_committed_ones_are_refused",
    ),
    (
        "session-of-another-client",
        "Run a job in another client's session",
        "G6",
        "signature-invalid",
        f"{_ADMISSION}::test_another_clients_job_does_not_run_in_a_session",
    ),
    (
        "giant-tensor",
        "Announce a tensor of 2^40 bytes in a header of a hundred",
        "G11",
        "worker-limit",
        f"{_ADMISSION}::test_a_header_that_announces_a_giant_tensor_allocates_nothing",
    ),
    (
        "greedy-program",
        "Send a program whose intermediate results are larger than the worker allows",
        "G11",
        "worker-limit",
        f"{_ADMISSION}::test_a_program_whose_intermediates_are_too_large_is_refused",
    ),
    (
        "talkative-refusal",
        "Learn a secret parameter from the text of a refusal",
        "G1",
        "program-invalid",
        f"{_ADMISSION}::test_a_refusal_quotes_no_parameter",
    ),
    (
        "half-an-input",
        "Start a program before its inputs are complete",
        "G4",
        "not-authentic",
        f"{_EXECUTOR}::test_a_program_does_not_start_on_incomplete_inputs",
    ),
    (
        "revoked-result",
        "Take a job back while its kernel runs, and have its result all the same",
        "G7",
        "cancelled",
        f"{_EXECUTOR}::test_a_job_revoked_while_its_kernel_ran_sends_nothing",
    ),
    # -- tensors -----------------------------------------------------------------------------------
    (
        "segment-elsewhere",
        "Move a segment to another position",
        "G4",
        "not-authentic",
        f"{_FLOE}::test_segment_at_another_position_is_refused",
    ),
    (
        "early-end",
        "Pass a segment before the end off as the last one",
        "G4",
        "not-authentic",
        f"{_FLOE}::test_segment_before_the_end_posing_as_the_final_one_is_refused",
    ),
    (
        "segment-of-another-message",
        "Use a segment of another tensor under the same key",
        "G4",
        "not-authentic",
        f"{_FLOE}::test_segment_of_another_message_under_the_same_key_is_refused",
    ),
    (
        "repeated-segment",
        "Deliver a segment twice",
        "G4",
        "not-authentic",
        f"{_TENSOR}::test_duplicated_segment_is_refused",
    ),
    (
        "dropped-segment",
        "Leave out the first segment, or one in the middle",
        "G4",
        "not-authentic",
        f"{_TENSOR}::test_tensor_with_its_first_or_middle_segment_dropped_is_refused",
    ),
    (
        "cut-and-reframed",
        "Cut the last segment and rewrite its length",
        "G4",
        "not-authentic",
        f"{_TENSOR}::test_truncated_final_segment_with_rewritten_framing_is_refused",
    ),
    (
        "other-shape",
        "Claim a thousand times a tensor's size, to have it allocated",
        "G4",
        "not-authentic",
        f"{_TENSOR}::test_header_that_claims_another_shape_is_refused",
    ),
    (
        "other-direction",
        "Splice a whole tensor into another job, direction, attempt or place",
        "G4",
        "not-authentic",
        f"{_TENSOR}::test_whole_tensor_of_another_place_is_refused",
    ),
    (
        "output-of-an-earlier-attempt",
        "Deliver the output of an earlier attempt",
        "G4",
        "not-authentic",
        f"{_TENSOR}::test_output_of_an_earlier_attempt_is_refused",
    ),
    (
        "sealed-twice",
        "Have a segment sealed twice under one key",
        "G1",
        "protocol-misuse",
        f"{_TENSOR}::test_segment_is_never_sealed_twice",
    ),
    # -- results -----------------------------------------------------------------------------------
    (
        "receipt-of-another-worker",
        "Sign with the key of another accepted worker",
        "G5",
        "receipt-signature-invalid",
        f"{_RECEIPT}::test_a_receipt_of_another_attested_worker_is_refused",
    ),
    (
        "traded-proofs",
        "Exchange the proofs of two receipts of one batch",
        "G5",
        "receipt-signature-invalid",
        f"{_RECEIPT}::test_receipts_of_one_batch_cannot_trade_proofs",
    ),
    (
        "job-signature-as-receipt",
        "Pass the signature over a job header off as a receipt",
        "G5",
        "signature-invalid",
        f"{_BATCH}::test_a_job_header_signature_is_no_receipt",
    ),
    (
        "better-evidence",
        "Claim a better kind of evidence in a receipt than was appraised",
        "G5",
        "receipt-evidence-mismatch",
        f"{_RECEIPT}::test_claims_that_name_a_better_kind_of_evidence_are_refused",
    ),
    (
        "unfounded-confidentiality",
        "Claim confidentiality that the evidence cannot give",
        "G1",
        "receipt-confidential-unfounded",
        f"{_RECEIPT}::test_no_worker_is_confidential_on_evidence_that_cannot_give_it",
    ),
    (
        "missing-receipt",
        "Leave a receipt out of a key set's chain",
        "G6",
        "receipt-chain-broken",
        f"{_RECEIPT}::test_a_receipt_left_out_breaks_the_chain",
    ),
    (
        "unsigned-result-header",
        "Exchange the outputs in a result header",
        "G5",
        "receipt-result-mismatch",
        f"{_HOSTILE}::test_a_result_header_that_the_worker_did_not_sign_is_refused",
    ),
    (
        "sealed-again",
        "Lose a streaming job, to have it sealed again under the same key",
        "G1",
        HARMLESS,
        f"{_HOSTILE}::test_a_lost_streaming_job_is_never_sealed_twice_under_one_key",
    ),
    (
        "delivered-twice",
        "Deliver a result twice",
        "G7",
        HARMLESS,
        f"{_HOSTILE}::test_a_result_that_is_delivered_twice_is_acknowledged_twice_and_taken_once",
    ),
    (
        "nonsense",
        "Send a client every kind of message with nonsense in it",
        "G9",
        DROPPED,
        f"{_HOSTILE}::test_nonsense_between_messages_changes_nothing",
    ),
    (
        "hello-flood",
        "Tell a client again and again that it is not welcome",
        "G11",
        HARMLESS,
        "tests/properties/test_client_engine.py::"
        "test_a_flood_of_not_welcome_is_answered_by_one_hello",
    ),
    # -- the coordinator ---------------------------------------------------------------------------
    (
        "proof-for-another",
        "Pose as a client at another coordinator, with the proof that it gave here",
        "G7",
        "bad-proof",
        f"{_BROKER}::test_a_proof_for_another_coordinator_is_refused",
    ),
    (
        "chosen-routing-id",
        "Choose another peer's routing id, to receive its messages",
        "G7",
        DROPPED,
        f"{_BROKER}::test_a_routing_id_of_ones_own_choosing_gets_no_answer",
    ),
    (
        "another-workers-place",
        "Say hello with another worker's instance, to take its place",
        "G11",
        HARMLESS,
        f"{_BROKER}::test_the_same_instance_under_another_key_is_another_worker",
    ),
    (
        "giant-frame",
        "Send a frame above the limit, to have it held in memory",
        "G11",
        DROPPED,
        f"{_BROKER}::test_an_announced_giant_frame_is_not_waited_for",
    ),
    (
        "contradictory-submission",
        "Announce sizes that cannot belong together",
        "G9",
        "malformed",
        f"{_CORE}::test_a_submission_that_contradicts_itself_is_malformed",
    ),
    (
        "wrong-role",
        "Speak as a worker over a client's connection",
        "G9",
        "malformed",
        f"{_CORE}::test_a_client_cannot_speak_as_a_worker",
    ),
    (
        "misshapen-result",
        "Return a result without a receipt, or too large",
        "G11",
        REVOKED,
        f"{_CORE}::test_a_result_of_another_shape_loses_the_lease",
    ),
    (
        "poisonous-job",
        "Submit a job that kills every worker that takes it",
        "G11",
        "attempts-exhausted",
        f"{_CORE}::test_a_job_that_kills_workers_is_given_up",
    ),
    (
        "rejected-for-another",
        "Reject the result of another client, or of another attempt",
        "G7",
        DROPPED,
        "tests/coordinator/test_rejection.py::"
        "test_a_rejection_of_another_attempt_or_by_another_client_changes_nothing",
    ),
    (
        "endless-rejection",
        "Reject every result, to keep all workers busy with one job",
        "G11",
        "attempts-exhausted",
        "tests/coordinator/test_rejection.py::test_a_job_that_is_always_rejected_ends",
    ),
    (
        "slandered-job",
        "Say of a good job that it is bad, to end it at every worker",
        "G11",
        HARMLESS,
        "tests/coordinator/test_rejection.py::"
        "test_one_worker_that_calls_a_good_job_bad_does_not_end_it",
    ),
    (
        "starved-neighbour",
        "Queue so many jobs that nobody else is served",
        "G11",
        HARMLESS,
        f"{_CORE}::test_one_client_cannot_starve_another",
    ),
    (
        "searched-disk",
        "Search the coordinator's state, logs and spool for plaintext",
        "G1",
        HARMLESS,
        f"{_SPINE}::test_plaintext_appears_in_nothing_that_coordinator_and_workers_write",
    ),
    # -- memory ------------------------------------------------------------------------------------
    (
        "recycled-buffer",
        "Read the last job's plaintext from a recycled buffer",
        "G10",
        HARMLESS,
        "tests/worker/test_buffers.py::test_a_recycled_buffer_holds_nothing_of_its_last_job",
    ),
    (
        "kept-array",
        "Keep an array from inside a kernel until the next job",
        "G10",
        HARMLESS,
        f"{_EXECUTOR}::test_an_array_that_a_kernel_keeps_shows_nothing_after_its_job",
    ),
    (
        "plaintext-of-a-bad-tag",
        "Change a tag, to leave unauthenticated plaintext in a buffer",
        "G10",
        "not-authentic",
        f"{_EXECUTOR}::test_changed_segments_are_refused_and_what_was_open_is_wiped",
    ),
    (
        "core-dump",
        "Read plaintext from a core dump or a forked child",
        "G10",
        HARMLESS,
        "tests/worker/test_buffers.py::"
        "test_a_buffer_is_not_in_core_dumps_and_is_empty_in_a_forked_child",
    ),
    # -- the open port -----------------------------------------------------------------------------
    (
        "endless-handshake",
        "Connect to the port and never finish the handshake",
        "G11",
        DROPPED,
        f"{_HANDSHAKES}::test_handshakes_that_never_end_are_ended",
    ),
    (
        "slow-handshake",
        "Send a handshake byte by byte",
        "G11",
        DROPPED,
        f"{_HANDSHAKES}::test_a_handshake_in_single_bytes_is_ended_too",
    ),
    (
        "thousand-connections",
        "Hold a thousand connections that send nothing, or garbage",
        "G11",
        HARMLESS,
        f"{_HANDSHAKES}::test_a_thousand_connections_that_mean_nothing_keep_nobody_waiting",
    ),
    (
        "silent-stranger",
        "Finish the handshake and never say hello",
        "G11",
        DROPPED,
        f"{_HANDSHAKES}::test_those_who_never_say_hello_are_shown_out",
    ),
    (
        "plaintext-peer",
        "Speak without CURVE to a port that asks for it",
        "G9",
        DROPPED,
        f"{_HANDSHAKES}::"
        "test_plaintext_peers_of_any_protocol_version_get_nothing_from_a_curve_port",
    ),
    (
        "unknown-curve-key",
        "Connect with a key that the operator never allowed",
        "G9",
        DROPPED,
        f"{_HANDSHAKES}::test_an_unknown_key_does_not_finish_its_handshake",
    ),
    (
        "removed-curve-key",
        "Stay connected after one's key was taken off the list",
        "G9",
        DROPPED,
        f"{_HANDSHAKES}::test_a_key_taken_off_the_list_loses_its_connections",
    ),
    (
        "unreadable-allow-list",
        "Connect while the allow-list cannot be read",
        "G9",
        DROPPED,
        f"{_HANDSHAKES}::test_a_list_that_cannot_be_read_lets_nobody_new_in_and_ends_nothing",
    ),
    (
        "announced-gigabytes",
        "Announce gigabytes with nine bytes, to have them allocated",
        "G11",
        DROPPED,
        f"{_FRAMES}::test_nine_bytes_reserve_nothing",
    ),
    (
        "endless-message",
        "Send a message that has always one frame more",
        "G11",
        DROPPED,
        f"{_FRAMES}::test_a_message_without_an_end_is_cut_off",
    ),
    (
        "many-unfinished-messages",
        "Leave messages of many connections unfinished",
        "G11",
        DROPPED,
        f"{_FRAMES}::test_what_many_leave_unfinished_is_bounded_together",
    ),
    (
        "giant-message",
        "Send one message of many frames that are each within the limit",
        "G11",
        "malformed",
        f"{_FRAMES}::test_a_whole_message_that_is_too_large_is_refused",
    ),
    (
        "garbage-flood",
        "Flood the port with garbage",
        "G11",
        HARMLESS,
        f"{_FRAMES}::test_a_flood_of_garbage_delays_nobody",
    ),
    (
        "stolen-routing-id",
        "Take the routing id of a connected worker, to be given its jobs",
        "G11",
        HARMLESS,
        f"{_IDENTITIES}::test_the_routing_id_of_a_connected_worker_cannot_be_taken",
    ),
    (
        "replayed-proof",
        "Prove a client's key with a proof that was captured",
        "G7",
        "bad-proof",
        f"{_IDENTITIES}::test_a_proof_is_good_once",
    ),
    (
        "signature-as-proof",
        "Prove a client's key with a signature that it made for something else",
        "G7",
        "bad-proof",
        f"{_IDENTITIES}::test_a_signature_made_for_something_else_is_no_proof",
    ),
    (
        "every-place",
        "Take every place at the coordinator with one CURVE key",
        "G11",
        "queue-full",
        f"{_IDENTITIES}::test_one_curve_key_cannot_take_every_place",
    ),
    (
        "unread-inputs",
        "Ask for all inputs and read none, to fill the coordinator's memory",
        "G11",
        HARMLESS,
        f"{_CREDIT}::test_a_worker_that_grants_everything_and_reads_nothing_costs_a_window",
    ),
    (
        "unread-outputs",
        "Ask for all outputs and read none, to fill the coordinator's memory",
        "G11",
        HARMLESS,
        f"{_CREDIT}::test_a_client_that_grants_everything_and_reads_nothing_costs_a_window",
    ),
    (
        "unread-stream",
        "Stream outputs to a client that reads none",
        "G11",
        DROPPED,
        f"{_CREDIT}::test_a_streaming_client_that_reads_nothing_is_cut_off",
    ),
    (
        "inputs-never-taken",
        "Take a job and never its inputs",
        "G11",
        REVOKED,
        f"{_LYING}::test_a_worker_that_never_takes_the_inputs_loses_the_job",
    ),
    (
        "heartbeat-for-others",
        "Keep the leases of others alive, or claim their jobs",
        "G11",
        REVOKED,
        f"{_LYING}::test_heartbeats_for_the_jobs_of_others_renew_nothing",
    ),
    (
        "second-result",
        "Answer a job a second time, with another result",
        "G7",
        HARMLESS,
        f"{_LYING}::test_a_second_result_does_not_replace_the_first",
    ),
    (
        "flood-of-accounts",
        "Take everything under many client keys and one CURVE key",
        "G11",
        "queue-full",
        f"{_FLOODS}::test_new_client_keys_under_one_curve_key_are_one_account",
    ),
    (
        "dear-submissions",
        "Submit what costs the coordinator most",
        "G11",
        HARMLESS,
        f"{_FLOODS}::test_dear_submissions_delay_nobody",
    ),
    # -- what the coordinator sees -----------------------------------------------------------------
    (
        "captured-wire",
        "Capture everything that the coordinator's sockets carry",
        "G1",
        HARMLESS,
        f"{_BLINDNESS}::test_the_wire_shows_nothing_to_a_capture",
    ),
    (
        "searched-state",
        "Search the coordinator's state folder while jobs wait and afterwards",
        "G1",
        HARMLESS,
        f"{_BLINDNESS}::test_the_state_folder_shows_nothing_while_jobs_wait_and_afterwards",
    ),
    (
        "searched-log",
        "Search the coordinator's log at its most talkative",
        "G1",
        HARMLESS,
        f"{_BLINDNESS}::test_the_log_shows_nothing_at_its_most_talkative",
    ),
    (
        "searched-memory",
        "Search the coordinator's memory during and after jobs",
        "G1",
        HARMLESS,
        f"{_BLINDNESS}::test_the_memory_shows_nothing_during_and_after_jobs",
    ),
    (
        "searched-refusals",
        "Provoke a worker's refusals, to read parameters in them or in its log",
        "G1",
        HARMLESS,
        f"{_REFUSALS}::test_a_workers_refusal_quotes_no_parameter_no_name_and_no_number",
    ),
    # -- what is left in a worker's memory ---------------------------------------------------------
    (
        "residue-of-a-job",
        "Search the worker's memory after a job",
        "G10",
        HARMLESS,
        f"{_RESIDUE}::test_nothing_is_left_of_a_job_that_finished",
    ),
    (
        "residue-of-a-failed-job",
        "Have a kernel fail with its input in the error",
        "G10",
        "kernel-failed",
        f"{_RESIDUE}::test_nothing_is_left_of_a_job_whose_kernel_failed",
    ),
    (
        "residue-of-a-cancelled-job",
        "Cancel a job while its kernel runs",
        "G10",
        HARMLESS,
        f"{_RESIDUE}::test_nothing_is_left_of_a_job_that_is_cancelled_while_its_kernel_runs",
    ),
    (
        "residue-of-half-a-job",
        "Take a job back before its inputs are whole",
        "G10",
        HARMLESS,
        f"{_RESIDUE}::test_nothing_is_left_of_a_job_that_is_revoked_before_its_inputs_are_whole",
    ),
    (
        "residue-of-a-bad-tag",
        "Change a tag in the middle of an input, and search the worker's memory",
        "G10",
        HARMLESS,
        f"{_RESIDUE}::test_nothing_is_left_of_inputs_with_a_bad_tag",
    ),
    (
        "residue-of-keys",
        "Search the worker's memory for session keys after their key set",
        "G10",
        HARMLESS,
        f"{_SESSIONS}::test_session_keys_are_gone_when_their_key_set_expires",
    ),
    (
        "crashed-worker",
        "Crash the worker and read its core",
        "G10",
        HARMLESS,
        f"{_CORES}::test_a_hardened_process_that_crashes_leaves_no_core",
    ),
    (
        "traced-worker",
        "Read the worker's memory as another process of the same user",
        "G10",
        HARMLESS,
        f"{_CORES}::test_another_process_of_the_same_user_cannot_look_in",
    ),
)

REFERENCED = tuple(
    Row(id=name, attack=sentence, guarantee=guarantee, refused=refused, test=test)
    for name, sentence, guarantee, refused, test in _ROWS
)
