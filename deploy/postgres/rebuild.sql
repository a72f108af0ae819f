-- What Redis held, asked for again from one database; runs before anybody comes in.
--
-- Events of the day before are sent again, in their order and with their ids, so that the
-- stream is whole for whoever resumes or consumes. The worker's own tasks are not: jobs,
-- firings and deliveries are rows, and their messages are replaced where they are missing.
update outbox set sent_at = null,
  headers = case channel when 'event' then headers || '{"repeated": "yes"}' else headers end
where sent_at is not null and (channel = 'event' or current_database() <> 'worker');

-- What a consumer has done it does not do again, however old that is by now.
select 'update inbox set received_at = now()' where to_regclass('inbox') is not null \gexec
