-- PostgreSQL's image runs this once, as it makes its data folder: each service gets a role and databases of its own.
-- The passwords are the last field of the password files that the services themselves are given.
\set ON_ERROR_STOP on
\set mlflow_password `cut -d: -f5 /run/secrets/mlflow_pgpass`
\set belay_password `cut -d: -f5 /run/secrets/belay_pgpass`

SET log_statement = none; -- a statement that holds a password must not be logged, even if it fails
SET log_min_error_statement = panic;
SET log_min_duration_statement = -1;

CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE ROLE belay LOGIN PASSWORD :'belay_password';

CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
CREATE DATABASE ledger OWNER belay;

REVOKE CONNECT ON DATABASE postgres, template1, mlflow, mlflow_auth, ledger FROM PUBLIC;
