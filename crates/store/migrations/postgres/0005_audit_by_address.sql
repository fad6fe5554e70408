-- Who asks what came from an address reads these events alone.
CREATE INDEX audit_events_by_ip ON audit_events (policy, ip, time, id);
