-- e671046
-- node 27b64bd9
BEGIN TRANSACTION;
CREATE TABLE application_versions (
    version_id TEXT NOT NULL PRIMARY KEY,
    version_name TEXT NOT NULL UNIQUE,
    version_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    created_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
, "application_name" TEXT DEFAULT NULL);
INSERT INTO "application_versions" VALUES('b1d335a9-0f84-4de0-b59a-02e3b73e91ff','splatgate',1795983998000,1795983998000,'splatgate');
CREATE TABLE assets (
	job VARCHAR(32) NOT NULL, 
	name VARCHAR(32) NOT NULL, 
	path VARCHAR(128) NOT NULL, 
	size BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	modified FLOAT NOT NULL, 
	PRIMARY KEY (job, name)
);
INSERT INTO "assets" VALUES('01a228f9c4077b9081cf8aaf79c207c2','asset.ply','01a228f9c4077b9081cf8aaf79c207c2/1/asset.ply',204414,'646928e9e1c32c2cc68376bbeffc5a136f676fadef73c356bbd640fa6726d579',1.79598400264931464193e+09);
INSERT INTO "assets" VALUES('01a228f9c4077b9081cf8aaf79c207c2','asset.spz','01a228f9c4077b9081cf8aaf79c207c2/1/asset.spz',32059,'e9b3bcf84ca5c4886f1c9943397513f26456bfbe1c7cf0def9c85e2b083d726c',1.79598400264931464193e+09);
INSERT INTO "assets" VALUES('01a228f9c4077b9081cf8aaf79c207c2','views.png','01a228f9c4077b9081cf8aaf79c207c2/1/views.png',155202,'a680610492f3fb1c068d90784cc594af8501958ccb2877de9b74c5119c9cdfad',1.79598400264931464193e+09);
INSERT INTO "assets" VALUES('01a228f9c4077b9081cf8aaf79c207c2','certificate.json','01a228f9c4077b9081cf8aaf79c207c2/1/certificate.json',3398,'472f24fd8173489f7be56089a7ba486c1a622b379be835227ff085dedf055b21',1.79598400264931464193e+09);
CREATE TABLE dbos_migrations (version INTEGER NOT NULL PRIMARY KEY);
INSERT INTO "dbos_migrations" VALUES(125);
CREATE TABLE engines (
	id VARCHAR(64) NOT NULL, 
	host VARCHAR(255) NOT NULL, 
	pid INTEGER NOT NULL, 
	device VARCHAR(128) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	why TEXT NOT NULL, 
	heartbeat FLOAT NOT NULL, 
	beats BIGINT NOT NULL, 
	progress FLOAT, 
	eta FLOAT, 
	job VARCHAR(32), 
	started FLOAT NOT NULL, 
	memory_used BIGINT, 
	memory_total BIGINT, 
	PRIMARY KEY (id)
);
INSERT INTO "engines" VALUES('27b64bd9-cpu','vm',16363,'CPU, 2 cores','BUSY','',1.79598400393333768845e+09,71,NULL,NULL,'01a228fd10d170a4bca57e1f595a8c12',1.79598386717771601678e+09,NULL,NULL);
CREATE TABLE jobs (
	id VARCHAR(32) NOT NULL, 
	"key" VARCHAR(255), 
	digest VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	prompt TEXT NOT NULL, 
	seed BIGINT NOT NULL, 
	attempts INTEGER NOT NULL, 
	format VARCHAR(8) NOT NULL, 
	profile VARCHAR(16) NOT NULL, 
	priority INTEGER NOT NULL, 
	sequence BIGINT, 
	source VARCHAR(32), 
	size INTEGER, 
	state VARCHAR(16) NOT NULL, 
	stage TEXT NOT NULL, 
	fraction FLOAT, 
	attempt INTEGER NOT NULL, 
	created FLOAT NOT NULL, 
	started FLOAT, 
	finished FLOAT, 
	deadline FLOAT, 
	outcome VARCHAR(16), 
	reasons JSON NOT NULL, 
	score FLOAT, 
	scores JSON NOT NULL, 
	gaussians BIGINT, 
	error TEXT NOT NULL, 
	engine VARCHAR(64), 
	version BIGINT NOT NULL, 
	cancelled BOOLEAN NOT NULL, 
	starts INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE ("key")
);
INSERT INTO "jobs" VALUES('01a228f9c4077b9081cf8aaf79c207c2',NULL,'d7be919531afaae7b030cdcd7df113fa0c3791a5c43a26d7219058497d1f665b','generate','a red cube',5,1,'ply','shapes',10,1,NULL,NULL,'DONE','',1.0,1,1795983787.01574,1.79598399977757167819e+09,1.79598400264931464193e+09,NULL,'passed','[]',3.28877210617065429687e-01,'[0.3881281912326813, 0.37217214703559875, 0.2744906544685364, 0.2807178497314453]',3000,'','27b64bd9-cpu',8,0,1);
INSERT INTO "jobs" VALUES('01a228fd10d170a4bca57e1f595a8c12',NULL,'603cd445dac9b34c49ecdad73a403e0a107fbd2e36da90f12a27c5a091fdac01','generate','a brown table next to a red rocket',0,3,'ply','shapes',10,1,NULL,NULL,'RUNNING','[1/4] Generating a splat for ''a brown table next to a red rocket'' (profile shapes, seed 1)...',3.33333333333333314829e-01,2,1.79598400328104138368e+09,1.79598400349772667882e+09,NULL,NULL,NULL,'[]',NULL,'[]',NULL,'','27b64bd9-cpu',8,0,1);
INSERT INTO "jobs" VALUES('01a228fd1cd9748082be8584fcb580b3',NULL,'091f8c662b2c77cf9168de281f62ce1152b08d7389dd04271049858038e8eda2','generate','a blue rocket',0,1,'ply','shapes',10,2,NULL,NULL,'QUEUED','',NULL,0,1.79598400636128830909e+09,NULL,NULL,NULL,NULL,'[]',NULL,'[]',NULL,'',NULL,1,0,0);
INSERT INTO "jobs" VALUES('01a228fd1d7f76b8829d6a801f87998e',NULL,'091f8c662b2c77cf9168de281f62ce1152b08d7389dd04271049858038e8eda2','generate','a blue rocket',0,1,'ply','shapes',10,3,NULL,NULL,'QUEUED','',NULL,0,1.79598400652743029597e+09,NULL,NULL,NULL,NULL,'[]',NULL,'[]',NULL,'',NULL,1,0,0);
INSERT INTO "jobs" VALUES('01a228fd1de7712ca29a80a09f502ad8',NULL,'d39a960e4fd1a731b750a74553b30d529f452557aeb89f7aee1cd96f63553d53','generate','a blue rocket',0,1,'ply','shapes',50,4,NULL,NULL,'QUEUED','',NULL,0,1.79598400663107490536e+09,NULL,NULL,NULL,NULL,'[]',NULL,'[]',NULL,'',NULL,1,0,0);
INSERT INTO "jobs" VALUES('01a228fd1e3f7dbca41ef4848793cee1',NULL,'6976b5df5284518378c1f69969c6ba998b54e5cb89638a4ed46474022d09b982','generate','a blue rocket',0,1,'ply','shapes',1,5,NULL,NULL,'QUEUED','',NULL,0,1.79598400671987962727e+09,NULL,NULL,NULL,NULL,'[]',NULL,'[]',NULL,'',NULL,1,0,0);
CREATE TABLE notifications (
    message_uuid TEXT NOT NULL DEFAULT (hex(randomblob(16))) PRIMARY KEY,
    destination_uuid TEXT NOT NULL,
    topic TEXT,
    message TEXT NOT NULL,
    created_at_epoch_ms INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000), "serialization" TEXT DEFAULT NULL, "consumed" BOOLEAN NOT NULL DEFAULT FALSE, consumed_by_function_id INTEGER,
    FOREIGN KEY (destination_uuid) REFERENCES workflow_status(workflow_uuid) 
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE "operation_outputs" (
    workflow_uuid TEXT NOT NULL,
    function_id INTEGER NOT NULL,
    function_name TEXT NOT NULL DEFAULT '',
    output TEXT,
    error TEXT,
    child_workflow_id TEXT,
    started_at_epoch_ms INTEGER,
    completed_at_epoch_ms INTEGER,
    serialization TEXT,
    application_name TEXT DEFAULT NULL,
    retention_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    PRIMARY KEY (workflow_uuid, function_id)
);
INSERT INTO "operation_outputs" VALUES('01a228f9c4077b9081cf8aaf79c207c2',1,'draw 1','{"picture":null,"model":"","seed":null,"failure":""}',NULL,NULL,1795983999817,1795984000060,'portable_json','splatgate',1795984000000);
INSERT INTO "operation_outputs" VALUES('01a228f9c4077b9081cf8aaf79c207c2',2,'build 1','{"state":"DONE","error":"","attempt":1,"seed":5,"outcome":"passed","reasons":[],"score":0.32887721061706543,"scores":[0.3881281912326813,0.37217214703559875,0.2744906544685364,0.2807178497314453],"gaussians":3000,"findings":[],"repairs":[],"files":[{"name":"asset.ply","path":"01a228f9c4077b9081cf8aaf79c207c2/1/asset.ply","size":204414,"sha256":"646928e9e1c32c2cc68376bbeffc5a136f676fadef73c356bbd640fa6726d579"},{"name":"asset.spz","path":"01a228f9c4077b9081cf8aaf79c207c2/1/asset.spz","size":32059,"sha256":"e9b3bcf84ca5c4886f1c9943397513f26456bfbe1c7cf0def9c85e2b083d726c"},{"name":"views.png","path":"01a228f9c4077b9081cf8aaf79c207c2/1/views.png","size":155202,"sha256":"a680610492f3fb1c068d90784cc594af8501958ccb2877de9b74c5119c9cdfad"},{"name":"certificate.json","path":"01a228f9c4077b9081cf8aaf79c207c2/1/certificate.json","size":3398,"sha256":"472f24fd8173489f7be56089a7ba486c1a622b379be835227ff085dedf055b21"}]}',NULL,NULL,1795984000126,1795984002586,'portable_json','splatgate',1795984002000);
INSERT INTO "operation_outputs" VALUES('01a228fd10d170a4bca57e1f595a8c12',1,'draw 1','{"picture":null,"model":"","seed":null,"failure":""}',NULL,NULL,1795984003510,1795984003530,'portable_json','splatgate',1795984003000);
INSERT INTO "operation_outputs" VALUES('01a228fd10d170a4bca57e1f595a8c12',2,'build 1','{"state":"DONE","error":"","attempt":1,"seed":0,"outcome":"refused","reasons":["CLIP=0.220, under the threshold 0.25"],"score":0.2206871211528778,"scores":[0.3440302312374115,0.04615817964076996,0.12175148725509644,0.3708086311817169],"gaussians":3000,"findings":[],"repairs":[],"files":[{"name":"asset.ply","path":"01a228fd10d170a4bca57e1f595a8c12/1/asset.ply","size":204414,"sha256":"ac7b01bfb20460d31072b67247ef99e83a7dd6fd65dd6b5efefe500345894a71"},{"name":"asset.spz","path":"01a228fd10d170a4bca57e1f595a8c12/1/asset.spz","size":32755,"sha256":"c85f131aa0da6acfb9a1b657f35adc8150226461b5983d94b59b644a5ca6bcad"},{"name":"views.png","path":"01a228fd10d170a4bca57e1f595a8c12/1/views.png","size":66339,"sha256":"07ed26dfc4e5c178ddc550e75784c8e3602033ea69f315878528d397f8e462f9"},{"name":"certificate.json","path":"01a228fd10d170a4bca57e1f595a8c12/1/certificate.json","size":3470,"sha256":"38746fd0a80db2163a6aaa33aee9c63b70b83d545a5f0787ea5665507cbf64b8"}]}',NULL,NULL,1795984003605,1795984004969,'portable_json','splatgate',1795984004000);
INSERT INTO "operation_outputs" VALUES('01a228fd10d170a4bca57e1f595a8c12',3,'draw 2','{"picture":null,"model":"","seed":null,"failure":""}',NULL,NULL,1795984005024,1795984005226,'portable_json','splatgate',1795984005000);
CREATE TABLE queues (
    queue_id TEXT PRIMARY KEY DEFAULT (hex(randomblob(16))),
    name TEXT NOT NULL UNIQUE,
    concurrency INTEGER,
    worker_concurrency INTEGER,
    rate_limit_max INTEGER,
    rate_limit_period_sec REAL,
    priority_enabled BOOLEAN NOT NULL DEFAULT FALSE,
    partition_queue BOOLEAN NOT NULL DEFAULT FALSE,
    polling_interval_sec REAL NOT NULL DEFAULT 1.0,
    created_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    updated_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
, "application_name" TEXT DEFAULT NULL, "partition_concurrency" INTEGER DEFAULT NULL, "partition_worker_concurrency" INTEGER DEFAULT NULL, "partition_rate_limit_max" INTEGER DEFAULT NULL, "partition_rate_limit_period_sec" REAL DEFAULT NULL);
INSERT INTO "queues" VALUES('42D2D55AADC2226EB965AA4E5FB77C17','jobs',NULL,1,NULL,NULL,1,0,1.0,1795983999000,1795983999291,'splatgate',NULL,NULL,NULL,NULL);
CREATE TABLE results (
	"row" INTEGER NOT NULL, 
	job VARCHAR(32) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	outcome VARCHAR(16), 
	score FLOAT, 
	gaussians BIGINT, 
	seconds FLOAT NOT NULL, 
	PRIMARY KEY ("row"), 
	UNIQUE (job)
);
INSERT INTO "results" VALUES(1,'01a228f9c4077b9081cf8aaf79c207c2','generate','passed',3.28877210617065429687e-01,3000,2.87174296379089355468e+00);
CREATE TABLE stage_times (
	"row" INTEGER NOT NULL, 
	job VARCHAR(32) NOT NULL, 
	attempt INTEGER NOT NULL, 
	stage VARCHAR(16) NOT NULL, 
	seconds FLOAT NOT NULL, 
	PRIMARY KEY ("row")
);
INSERT INTO "stage_times" VALUES(1,'01a228f9c4077b9081cf8aaf79c207c2',1,'picture',1.75562000094942050054e-04);
INSERT INTO "stage_times" VALUES(2,'01a228f9c4077b9081cf8aaf79c207c2',1,'splat',3.54161789996396692004e-02);
INSERT INTO "stage_times" VALUES(3,'01a228f9c4077b9081cf8aaf79c207c2',1,'repair',1.19508299999324663076e-02);
INSERT INTO "stage_times" VALUES(4,'01a228f9c4077b9081cf8aaf79c207c2',1,'render',2.76185341000200423877e-01);
INSERT INTO "stage_times" VALUES(5,'01a228f9c4077b9081cf8aaf79c207c2',1,'score',2.03077033299996401183e+00);
CREATE TABLE streams (
    workflow_uuid TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    "offset" INTEGER NOT NULL, function_id INTEGER NOT NULL DEFAULT 0, "serialization" TEXT DEFAULT NULL,
    PRIMARY KEY (workflow_uuid, key, "offset"),
    FOREIGN KEY (workflow_uuid) REFERENCES workflow_status(workflow_uuid) 
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE tallies (
	what VARCHAR(16) NOT NULL, 
	label VARCHAR(128) NOT NULL, 
	count BIGINT NOT NULL, 
	PRIMARY KEY (what, label)
);
INSERT INTO "tallies" VALUES('state','DONE',1);
INSERT INTO "tallies" VALUES('outcome','passed',1);
CREATE TABLE workflow_events (
    workflow_uuid TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL, "serialization" TEXT DEFAULT NULL,
    PRIMARY KEY (workflow_uuid, key),
    FOREIGN KEY (workflow_uuid) REFERENCES workflow_status(workflow_uuid) 
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE workflow_events_history (
    workflow_uuid TEXT NOT NULL,
    function_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL, "serialization" TEXT DEFAULT NULL,
    PRIMARY KEY (workflow_uuid, function_id, key),
    FOREIGN KEY (workflow_uuid) REFERENCES workflow_status(workflow_uuid)
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE workflow_input (
    workflow_uuid TEXT NOT NULL PRIMARY KEY,
    inputs TEXT,
    retention_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
);
INSERT INTO "workflow_input" VALUES('01a228f9c4077b9081cf8aaf79c207c2','{"namedArgs":{},"positionalArgs":["01a228f9c4077b9081cf8aaf79c207c2"]}',1795983787000);
INSERT INTO "workflow_input" VALUES('01a228fd10d170a4bca57e1f595a8c12','{"namedArgs":{},"positionalArgs":["01a228fd10d170a4bca57e1f595a8c12"]}',1795984003000);
INSERT INTO "workflow_input" VALUES('01a228fd1cd9748082be8584fcb580b3','{"namedArgs":{},"positionalArgs":["01a228fd1cd9748082be8584fcb580b3"]}',1795984006000);
INSERT INTO "workflow_input" VALUES('01a228fd1d7f76b8829d6a801f87998e','{"namedArgs":{},"positionalArgs":["01a228fd1d7f76b8829d6a801f87998e"]}',1795984006000);
INSERT INTO "workflow_input" VALUES('01a228fd1de7712ca29a80a09f502ad8','{"namedArgs":{},"positionalArgs":["01a228fd1de7712ca29a80a09f502ad8"]}',1795984006000);
INSERT INTO "workflow_input" VALUES('01a228fd1e3f7dbca41ef4848793cee1','{"namedArgs":{},"positionalArgs":["01a228fd1e3f7dbca41ef4848793cee1"]}',1795984006000);
CREATE TABLE workflow_output (
    workflow_uuid TEXT NOT NULL PRIMARY KEY,
    output TEXT,
    error TEXT,
    retention_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
);
INSERT INTO "workflow_output" VALUES('01a228f9c4077b9081cf8aaf79c207c2','null',NULL,1795984003000);
CREATE TABLE workflow_schedules (
    schedule_id TEXT PRIMARY KEY,
    schedule_name TEXT NOT NULL UNIQUE,
    workflow_name TEXT NOT NULL,
    workflow_class_name TEXT,
    schedule TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'ACTIVE',
    context TEXT NOT NULL
, "last_fired_at" TEXT DEFAULT NULL, "automatic_backfill" BOOLEAN NOT NULL DEFAULT FALSE, "cron_timezone" TEXT DEFAULT NULL, "queue_name" TEXT DEFAULT NULL, "application_name" TEXT DEFAULT NULL);
CREATE TABLE workflow_status (
    workflow_uuid TEXT PRIMARY KEY,
    status TEXT,
    name TEXT,
    authenticated_user TEXT,
    assumed_role TEXT,
    authenticated_roles TEXT,
    request TEXT,
    output TEXT,
    error TEXT,
    executor_id TEXT,
    created_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    updated_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    application_version TEXT,
    application_id TEXT,
    class_name TEXT DEFAULT NULL,
    config_name TEXT DEFAULT NULL,
    recovery_attempts INTEGER DEFAULT 0,
    queue_name TEXT,
    workflow_timeout_ms INTEGER,
    workflow_deadline_epoch_ms INTEGER,
    inputs TEXT,
    started_at_epoch_ms INTEGER,
    deduplication_id TEXT,
    priority INTEGER NOT NULL DEFAULT 0
, queue_partition_key TEXT, forked_from TEXT, "owner_xid" TEXT DEFAULT NULL, "parent_workflow_id" TEXT DEFAULT NULL, "serialization" TEXT DEFAULT NULL, "delay_until_epoch_ms" BIGINT DEFAULT NULL, "was_forked_from" BOOLEAN NOT NULL DEFAULT FALSE, "rate_limited" BOOLEAN NOT NULL DEFAULT FALSE, "completed_at" BIGINT, "attributes" TEXT, "schedule_name" TEXT, "debounce_deadline_epoch_ms" BIGINT DEFAULT NULL, "is_debounced" BOOLEAN NOT NULL DEFAULT FALSE, "application_name" TEXT DEFAULT NULL, "creator_xid" TEXT DEFAULT NULL);
INSERT INTO "workflow_status" VALUES('01a228f9c4077b9081cf8aaf79c207c2','SUCCESS','job',NULL,NULL,NULL,NULL,NULL,NULL,'27b64bd9-cpu',1795983787000,1795984003000,'splatgate',NULL,NULL,NULL,1,'jobs',NULL,NULL,NULL,1795983999000,NULL,167772161,NULL,NULL,NULL,NULL,'portable_json',NULL,0,0,1795984003000,'null',NULL,NULL,0,'splatgate','60c9a684-f339-42b4-93ef-6e9fff3ad318');
INSERT INTO "workflow_status" VALUES('01a228fd10d170a4bca57e1f595a8c12','PENDING','job',NULL,NULL,NULL,NULL,NULL,NULL,'27b64bd9-cpu',1795984003000,1795984003000,'splatgate',NULL,NULL,NULL,1,'jobs',NULL,NULL,NULL,1795984003000,NULL,167772161,NULL,NULL,'ef472e70f1d7016657f18b9e640224bd',NULL,'portable_json',NULL,0,0,NULL,'null',NULL,NULL,0,'splatgate','ec6f5b9f-ea96-48f8-8619-78d78ff93471');
INSERT INTO "workflow_status" VALUES('01a228fd1cd9748082be8584fcb580b3','ENQUEUED','job',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1795984006000,1795984006000,'splatgate',NULL,NULL,NULL,0,'jobs',NULL,NULL,NULL,NULL,NULL,167772162,NULL,NULL,NULL,NULL,'portable_json',NULL,0,0,NULL,'null',NULL,NULL,0,'splatgate','fb4b3ef1-b9ab-4dce-9dd6-59ca9205e0f0');
INSERT INTO "workflow_status" VALUES('01a228fd1d7f76b8829d6a801f87998e','ENQUEUED','job',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1795984006000,1795984006000,'splatgate',NULL,NULL,NULL,0,'jobs',NULL,NULL,NULL,NULL,NULL,167772163,NULL,NULL,NULL,NULL,'portable_json',NULL,0,0,NULL,'null',NULL,NULL,0,'splatgate','23cfd2fc-bb96-4752-9ba0-ac2d2ed91868');
INSERT INTO "workflow_status" VALUES('01a228fd1de7712ca29a80a09f502ad8','ENQUEUED','job',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1795984006000,1795984006000,'splatgate',NULL,NULL,NULL,0,'jobs',NULL,NULL,NULL,NULL,NULL,838860804,NULL,NULL,NULL,NULL,'portable_json',NULL,0,0,NULL,'null',NULL,NULL,0,'splatgate','9b56c0a0-9e9c-410c-9d56-21a73d12de47');
INSERT INTO "workflow_status" VALUES('01a228fd1e3f7dbca41ef4848793cee1','ENQUEUED','job',NULL,NULL,NULL,NULL,NULL,NULL,NULL,1795984006000,1795984006000,'splatgate',NULL,NULL,NULL,0,'jobs',NULL,NULL,NULL,NULL,NULL,16777221,NULL,NULL,NULL,NULL,'portable_json',NULL,0,0,NULL,'null',NULL,NULL,0,'splatgate','52d82aec-9ffc-494d-9b8e-926760e2be4d');
CREATE INDEX jobs_prompt ON jobs (prompt);
CREATE INDEX jobs_queue ON jobs (state, priority, sequence);
CREATE INDEX workflow_status_created_at_index ON workflow_status (created_at);
CREATE INDEX idx_workflow_topic ON notifications (destination_uuid, topic);
CREATE INDEX "idx_workflow_status_delayed" ON "workflow_status" ("delay_until_epoch_ms") WHERE status = 'DELAYED';
CREATE INDEX "idx_workflow_status_forked_from" ON "workflow_status" ("forked_from") WHERE "forked_from" IS NOT NULL;
CREATE INDEX "idx_workflow_status_parent_workflow_id" ON "workflow_status" ("parent_workflow_id") WHERE "parent_workflow_id" IS NOT NULL;
CREATE UNIQUE INDEX "uq_workflow_status_dedup_id" ON "workflow_status" ("queue_name", "deduplication_id") WHERE "deduplication_id" IS NOT NULL;
CREATE INDEX "idx_workflow_status_pending" ON "workflow_status" ("created_at") WHERE "status" = 'PENDING';
CREATE INDEX "idx_workflow_status_failed" ON "workflow_status" ("status", "created_at") WHERE "status" IN ('ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED');
CREATE INDEX "idx_workflow_status_rate_limited" ON "workflow_status" ("queue_name", "started_at_epoch_ms") WHERE "rate_limited" = TRUE;
CREATE INDEX "idx_workflow_status_completed_at" ON "workflow_status" ("completed_at") WHERE "completed_at" IS NOT NULL;
CREATE INDEX "idx_workflow_status_started_at" ON "workflow_status" ("started_at_epoch_ms") WHERE "started_at_epoch_ms" IS NOT NULL;
CREATE INDEX "idx_workflow_status_schedule_name" ON "workflow_status" ("schedule_name") WHERE "schedule_name" IS NOT NULL;
CREATE UNIQUE INDEX "uq_application_versions_owner_version"
    ON application_versions ("application_name", "version_name")
    WHERE "application_name" IS NOT NULL;
CREATE UNIQUE INDEX "uq_application_versions_unclaimed_version"
    ON application_versions ("version_name")
    WHERE "application_name" IS NULL;
CREATE INDEX idx_workflow_input_retention
    ON workflow_input (retention_timestamp);
CREATE INDEX idx_workflow_output_retention
    ON workflow_output (retention_timestamp);
CREATE INDEX idx_operation_outputs_retention
    ON operation_outputs (retention_timestamp);
CREATE INDEX "idx_workflow_status_in_flight_v2" ON "workflow_status" ("queue_name", "status", "priority", "created_at", "application_name") WHERE "status" IN ('ENQUEUED', 'PENDING');
CREATE INDEX "idx_workflow_status_partition_dequeue_v3" ON "workflow_status" ("queue_name", "status", "queue_partition_key", "priority", "created_at", "workflow_uuid", "application_name") WHERE "status" IN ('ENQUEUED', 'PENDING') AND "queue_partition_key" IS NOT NULL;
CREATE INDEX "idx_operation_outputs_completed_at_function_name_v2" ON "operation_outputs" ("completed_at_epoch_ms", "function_name", "application_name");
CREATE INDEX "idx_workflow_status_deadline" ON "workflow_status" ("workflow_deadline_epoch_ms") WHERE "status" IN ('ENQUEUED', 'PENDING', 'DELAYED') AND "workflow_deadline_epoch_ms" IS NOT NULL;
CREATE INDEX "idx_application_versions_timestamp" ON "application_versions" ("version_timestamp" DESC);
CREATE INDEX "idx_application_versions_owner_timestamp" ON "application_versions" ("application_name", "version_timestamp" DESC);
COMMIT;
