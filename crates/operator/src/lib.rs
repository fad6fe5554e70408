//! The operator: from what is declared on the API server to key rings, bundles, declared sessions and status.
