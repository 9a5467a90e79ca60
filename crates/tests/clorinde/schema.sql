CREATE TYPE mood AS ENUM ('calm', 'busy');
CREATE TABLE authors (
    id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    mood mood NOT NULL DEFAULT 'calm',
    born int4
);
