-- Nobody but the owner may execute a function of the bus unless it is granted: see roles.py. A later migration that adds
-- a function revokes it likewise.

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA commandbus FROM PUBLIC;

-- Whoever may read a batch may have it recounted: it can store nothing but what is true.
ALTER FUNCTION commandbus.sp_refresh_batch_stats(text, uuid) SECURITY DEFINER;
