"""Every bound in one place, units last, with the relations between them asserted."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
SECOND_US: Final = 1_000_000
DAY_US: Final = 86_400 * SECOND_US

# A row is (partition, seq) and seq = record number << 20 | row, so one record holds 2^20 rows.
ROW_BITS: Final = 20
request_rows_max: Final = 100_000
message_bytes_max: Final = 16 * MIB
header_bytes_max: Final = 64 * KIB
action_bytes_max: Final = 8 * KIB
metadata_bytes_max: Final = 64 * KIB  # some 7,000 keys of large integers
columns_max: Final = 512
rows_in_flight_max: Final = 400_000
bytes_in_flight_max: Final = 64 * MIB
streams_max: Final = 1_024
retry_after_ms: Final = 50

# DuckDB's order key is ts * 4096 + tie in one int64 (replay), so a key has 4,096 rows in one
# microsecond at most, and event times end with 2040: 2_240_611_199_999_999 * 4096 < 2^63.
ties_max: Final = 4_096
event_time_us_min: Final = -2_208_988_800 * SECOND_US  # 1900-01-01T00:00:00Z
event_time_us_max: Final = 2_240_611_200 * SECOND_US - 1  # the last microsecond of 2040
duration_us_max: Final = 36_525 * DAY_US  # a century

late_us_default: Final = 600 * SECOND_US
# fsum's blocks: 32 rows, 32 blocks, 32 of those (1,024 and 32,768 rows).
block_rows: Final = 32
layouts_max: Final = 1_024
top_k_max: Final = 1_000
last_rows_max: Final = 1_000_000
segment_bytes_max: Final = 256 * MIB
# A sealed file is read whole, so that a request is: 250,000 rows of 20 columns are some 40 MB.
sealed_rows_max: Final = 250_000
sealed_part_bytes_max: Final = 128 * MIB
# A vector is for a model; a document belongs elsewhere. 8,192 rows of a load are packed at a time.
stored_row_bytes_max: Final = 64 * KIB

assert request_rows_max < 1 << ROW_BITS
assert ties_max * event_time_us_max < 1 << 63
assert request_rows_max <= rows_in_flight_max
# Admission must let one largest message in, or it could never be answered.
assert message_bytes_max <= bytes_in_flight_max
