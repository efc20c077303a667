-- Run once, when the volume is new: a database for each server.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
