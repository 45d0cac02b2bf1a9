-- Takes back what the folder batch_report_runner has made, and the bus's note of it, so that it can be made again.
DROP SCHEMA IF EXISTS report CASCADE;
DELETE FROM commandbus.migration WHERE scope = 'batch_report_runner';
