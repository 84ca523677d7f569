# The contents pages of the tests (those of test/unit are in worker/Makefile). A file that no list names fails
# `make lint`. Order is the order of the run.

# sql/NAME.sql and expected/NAME.out, run one after the other in one database
REGRESS = \
	tenant \
	caller \
	intake \
	event \
	retry \
	dead_letter \
	event_why \
	activation \
	generation \
	outbox \
	idempotency \
	health \
	metrics \
	usage \
	consume \
	consume_hostile \
	handle \
	tenant_scope \
	key_order \
	circuit \
	backpressure \
	suspect \
	rate_limit \
	report \
	audit_report \
	legal_hold \
	personal_data \
	api_error \
	api_args \
	api_dlq

# test/pgtap/NAME.sql
PGTAP = \
	catalog \
	caller \
	role

# test/isolation/specs/NAME.spec and test/isolation/expected/NAME.out
ISOLATION = \
	intake \
	tenant \
	caller \
	caller_error \
	outbox_horizon \
	generation \
	claim \
	config \
	fence \
	dead_letter \
	circuit \
	backpressure \
	rate_limit \
	suspect \
	lock \
	idempotency \
	usage \
	legal_hold \
	personal_data

# test/t/NNN_NAME.pl
TAP = \
	010_upgrade \
	110_publish \
	112_blocked \
	120_http \
	020_dump \
	030_activation \
	040_generation \
	050_outbox \
	100_circle \
	105_worker \
	115_dead_letter \
	120_kill \
	130_role \
	140_poison \
	150_suspect \
	150_topic \
	155_tenant_scope \
	170_usage \
	160_rate_limit \
	165_backpressure \
	161_rate_limit_day \
	161_rate_limit_model \
	180_report \
	182_report_harm \
	183_report_speed \
	185_report_pdf \
	186_report_cron \
	187_verify \
	188_report_fuzz \
	200_runbook \
	210_docs \
	220_capacity \
	400_http_paths \
	401_http_answers \
	410_http_leak \
	411_http_token \
	412_caller_leak \
	414_http_serve \
	415_http_fuzz \
	300_torture \
	310_points

# Names that are no subject of extension/sql, and may still name a test
GENERAL = \
	blocked \
	capacity \
	catalog \
	caller \
	circle \
	docs \
	dump \
	fence \
	http_answers \
	http_paths \
	json \
	kill \
	points \
	poison \
	runbook \
	torture \
	topic \
	upgrade \
	worker

print-%:
	@echo $($*)
.PHONY: print-%
