-- Version 2 to 3: Python's objects and their arenas at each snapshot.
ALTER TABLE snapshot ADD COLUMN object_bytes INTEGER;
ALTER TABLE snapshot ADD COLUMN object_blocks INTEGER;
ALTER TABLE snapshot ADD COLUMN arena_object_bytes INTEGER;
ALTER TABLE snapshot ADD COLUMN arena_object_blocks INTEGER;
ALTER TABLE snapshot ADD COLUMN arena_bytes INTEGER;
CREATE VIEW python_heap AS
SELECT p.run_id, n.process_id, n.snapshot_id, n.kind, n.label, n.at_ns, n.object_bytes, n.object_blocks, n.arena_object_bytes,
    n.arena_object_blocks, n.arena_bytes
FROM snapshot AS n JOIN process AS p USING (process_id) WHERE n.object_bytes IS NOT NULL;
