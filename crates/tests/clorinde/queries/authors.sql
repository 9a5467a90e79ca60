--! insert_author (born?)
INSERT INTO authors (name, mood, born) VALUES (:name, :mood, :born) RETURNING id;

--! authors_of_mood : (born?)
SELECT id, name, mood, born FROM authors WHERE mood = :mood ORDER BY id;

--! author_by_name : (born?)
SELECT id, name, mood, born FROM authors WHERE name = :name;

--! rename_author
UPDATE authors SET name = :new_name WHERE name = :name;
