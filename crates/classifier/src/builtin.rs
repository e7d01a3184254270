//! PostgreSQL's own functions and settings, as sorted tables. It owns names only; `catalog` decides what they mean.
//!
//! [`HARMLESS`] is what PostgreSQL 15.18 answers to the query below: the functions of which no overload is volatile, without those
//! whose answer depends on the node or the session, those that run SQL given as text, and the inner workings of types, operators and
//! indexes. Thirty of the latter, which people do call, are added by hand; so are the harmless functions of PostgreSQL 16 to 18.
//!
//! ```sql
//! select proname from pg_proc p
//! where pronamespace = 'pg_catalog'::regnamespace
//!   and not exists (select from pg_proc v where v.proname = p.proname and v.provolatile = 'v')
//!   and prorettype not in ('trigger'::regtype, 'event_trigger'::regtype, 'internal'::regtype, 'cstring'::regtype)
//!   and not ('internal'::regtype = any (proargtypes)) and not ('cstring'::regtype = any (proargtypes))
//!   and not exists (select from pg_description where objoid = p.oid and description like 'implementation of %')
//!   and not exists (select from pg_amproc where amproc = p.oid)
//!   and not exists (select from pg_type where p.oid in (typinput, typoutput, typreceive, typsend))
//!   and proname !~ '^(pg_stat_|pg_event_trigger|(table|schema|database)_to_xml|fmgr_|txid_current|pg_current_|inet_(server|client)_|binary_upgrade)'
//!   and proname not in ('current_setting', 'pg_available_extension_versions', 'pg_available_extensions', 'pg_backend_pid',
//!       'pg_conf_load_time', 'pg_config', 'pg_cursor', 'pg_extension_update_paths', 'pg_get_replication_slots',
//!       'pg_is_other_temp_schema', 'pg_listening_channels', 'pg_my_temp_schema', 'pg_postmaster_start_time',
//!       'pg_prepared_statement', 'pg_replication_origin_oid', 'pg_show_all_settings', 'pg_tablespace_databases',
//!       'pg_tablespace_location', 'pg_trigger_depth', 'pg_walfile_name', 'pg_walfile_name_offset')
//! group by proname
//! order by proname collate "C";
//! ```

/// Immutable and stable functions that read nothing but their arguments, the tables and the catalogs.
#[rustfmt::skip]
pub(crate) static HARMLESS: &[&str] = &[
    "abbrev", "abs", "aclcontains", "acldefault", "aclexplode", "aclinsert", "aclremove", "acos", "acosd", "acosh",
    "age", "any_value", "area", "array_agg", "array_append", "array_cat", "array_dims", "array_fill",
    "array_larger", "array_length", "array_lower", "array_ndims", "array_position", "array_positions",
    "array_prepend", "array_remove", "array_replace", "array_reverse", "array_smaller", "array_sort",
    "array_to_json", "array_to_string", "array_to_tsvector", "array_upper", "arraycontained", "arraycontains",
    "arrayoverlap", "ascii", "asin", "asind", "asinh", "atan", "atan2", "atan2d", "atand", "atanh", "avg", "bit",
    "bit_and", "bit_count", "bit_length", "bit_or", "bit_xor", "bittypmodin", "bool", "bool_and", "bool_or",
    "booland_statefunc", "boolor_statefunc", "box", "bpchar", "bpchar_larger", "bpchar_smaller", "bpchartypmodin",
    "broadcast", "btrim", "bytea_larger", "bytea_smaller", "cardinality", "casefold", "cash_words", "cashlarger",
    "cashsmaller", "cbrt", "ceil", "ceiling", "center", "char", "char_length", "character_length", "chr", "cidr",
    "circle", "col_description", "concat", "concat_ws", "convert", "convert_from", "convert_to", "corr", "cos",
    "cosd", "cosh", "cot", "cotd", "count", "covar_pop", "covar_samp", "crc32", "crc32c", "cume_dist",
    "current_database", "current_schema", "current_schemas", "current_user", "date", "date_add", "date_bin",
    "date_larger", "date_mi", "date_part", "date_smaller", "date_subtract", "date_trunc", "datemultirange",
    "daterange", "daterange_canonical", "daterange_subdiff", "decode", "degrees", "dense_rank", "dexp", "diagonal",
    "diameter", "div", "dlog1", "dlog10", "dround", "dtrunc", "encode", "enum_first", "enum_larger", "enum_last",
    "enum_range", "enum_send", "enum_smaller", "erf", "erfc", "every", "exp", "extract", "factorial", "family",
    "first_value", "float4", "float4_accum", "float4larger", "float4smaller", "float8", "float8_accum",
    "float8_avg", "float8_combine", "float8_corr", "float8_covar_pop", "float8_covar_samp", "float8_regr_accum",
    "float8_regr_avgx", "float8_regr_avgy", "float8_regr_combine", "float8_regr_intercept", "float8_regr_r2",
    "float8_regr_slope", "float8_regr_sxx", "float8_regr_sxy", "float8_regr_syy", "float8_stddev_pop",
    "float8_stddev_samp", "float8_var_pop", "float8_var_samp", "float8larger", "float8smaller", "floor", "format",
    "format_type", "gamma", "gcd", "generate_series", "generate_subscripts", "get_bit", "get_byte",
    "get_current_ts_config", "getdatabaseencoding", "getpgusername", "has_any_column_privilege",
    "has_column_privilege", "has_database_privilege", "has_foreign_data_wrapper_privilege",
    "has_function_privilege", "has_language_privilege", "has_largeobject_privilege", "has_parameter_privilege",
    "has_schema_privilege", "has_sequence_privilege", "has_server_privilege", "has_table_privilege",
    "has_tablespace_privilege", "has_type_privilege", "hashint4", "hashint8", "hashtext", "hashtextextended",
    "height", "host", "hostmask", "icu_unicode_version", "inet_merge", "inet_same_family", "initcap", "int2",
    "int2_avg_accum", "int2_avg_accum_inv", "int2_sum", "int2int4_sum", "int2larger", "int2smaller", "int4",
    "int4_avg_accum", "int4_avg_accum_inv", "int4_avg_combine", "int4_sum", "int4inc", "int4larger",
    "int4multirange", "int4range", "int4range_canonical", "int4range_subdiff", "int4smaller", "int8", "int8_avg",
    "int8_sum", "int8dec", "int8dec_any", "int8inc", "int8inc_any", "int8inc_float8_float8", "int8larger",
    "int8multirange", "int8range", "int8range_canonical", "int8range_subdiff", "int8smaller", "interval",
    "interval_accum", "interval_accum_inv", "interval_avg", "interval_combine", "interval_larger",
    "interval_smaller", "intervaltypmodin", "is_normalized", "isclosed", "isempty", "isfinite", "ishorizontal",
    "isopen", "isparallel", "isperp", "isvertical", "json", "json_agg", "json_agg_strict", "json_array",
    "json_array_element", "json_array_element_text", "json_array_elements", "json_array_elements_text",
    "json_array_length", "json_arrayagg", "json_build_array", "json_build_object", "json_each", "json_each_text",
    "json_exists", "json_extract_path", "json_extract_path_text", "json_object", "json_object_agg",
    "json_object_agg_strict", "json_object_agg_unique", "json_object_agg_unique_strict", "json_object_field",
    "json_object_field_text", "json_object_keys", "json_objectagg", "json_populate_record",
    "json_populate_recordset", "json_query", "json_scalar", "json_serialize", "json_strip_nulls", "json_table",
    "json_to_record", "json_to_recordset", "json_to_tsvector", "json_typeof", "json_value", "jsonb_agg",
    "jsonb_agg_strict", "jsonb_array_element", "jsonb_array_element_text", "jsonb_array_elements",
    "jsonb_array_elements_text", "jsonb_array_length", "jsonb_build_array", "jsonb_build_object", "jsonb_concat",
    "jsonb_contained", "jsonb_contains", "jsonb_delete", "jsonb_delete_path", "jsonb_each", "jsonb_each_text",
    "jsonb_exists", "jsonb_exists_all", "jsonb_exists_any", "jsonb_extract_path", "jsonb_extract_path_text",
    "jsonb_insert", "jsonb_object", "jsonb_object_agg", "jsonb_object_agg_strict", "jsonb_object_agg_unique",
    "jsonb_object_agg_unique_strict", "jsonb_object_field", "jsonb_object_field_text", "jsonb_object_keys",
    "jsonb_path_exists", "jsonb_path_exists_tz", "jsonb_path_match", "jsonb_path_match_tz", "jsonb_path_query",
    "jsonb_path_query_array", "jsonb_path_query_array_tz", "jsonb_path_query_first", "jsonb_path_query_first_tz",
    "jsonb_path_query_tz", "jsonb_populate_record", "jsonb_populate_record_valid", "jsonb_populate_recordset",
    "jsonb_pretty", "jsonb_set", "jsonb_set_lax", "jsonb_strip_nulls", "jsonb_to_record", "jsonb_to_recordset",
    "jsonb_to_tsvector", "jsonb_typeof", "justify_days", "justify_hours", "justify_interval", "lag", "last_value",
    "lcm", "lead", "left", "length", "lgamma", "like", "like_escape", "line", "ln", "log", "log10", "lower",
    "lower_inc", "lower_inf", "lpad", "lseg", "ltrim", "macaddr", "macaddr8", "macaddr8_set7bit", "make_date",
    "make_interval", "make_time", "make_timestamp", "make_timestamptz", "makeaclitem", "masklen", "max", "md5",
    "merge_action", "min", "min_scale", "mod", "mode", "money", "multirange", "multirange_intersect_agg_transfn",
    "mxid_age", "name", "nameconcatoid", "netmask", "network", "network_larger", "network_smaller", "normalize",
    "notlike", "now", "npoints", "nth_value", "ntile", "num_nonnulls", "num_nulls", "numeric", "numeric_div_trunc",
    "numeric_exp", "numeric_inc", "numeric_larger", "numeric_ln", "numeric_log", "numeric_smaller", "numeric_sqrt",
    "numerictypmodin", "nummultirange", "numnode", "numrange", "numrange_subdiff", "obj_description",
    "octet_length", "oid", "oidlarger", "oidsmaller", "oidvectortypes", "overlaps", "overlay", "parse_ident",
    "path", "pclose", "percent_rank", "percentile_cont", "percentile_disc", "pg_basetype", "pg_char_to_encoding",
    "pg_client_encoding", "pg_collation_for", "pg_collation_is_visible", "pg_column_compression",
    "pg_column_is_updatable", "pg_column_size", "pg_column_toast_chunk_id", "pg_conversion_is_visible",
    "pg_describe_object", "pg_encoding_max_length", "pg_encoding_to_char", "pg_filenode_relation",
    "pg_function_is_visible", "pg_get_acl", "pg_get_catalog_foreign_keys", "pg_get_constraintdef", "pg_get_expr",
    "pg_get_function_arg_default", "pg_get_function_arguments", "pg_get_function_identity_arguments",
    "pg_get_function_result", "pg_get_function_sqlbody", "pg_get_functiondef", "pg_get_indexdef", "pg_get_keywords",
    "pg_get_object_address", "pg_get_partition_constraintdef", "pg_get_partkeydef", "pg_get_publication_tables",
    "pg_get_replica_identity_index", "pg_get_ruledef", "pg_get_serial_sequence", "pg_get_statisticsobjdef",
    "pg_get_statisticsobjdef_columns", "pg_get_statisticsobjdef_expressions", "pg_get_triggerdef",
    "pg_get_userbyid", "pg_get_viewdef", "pg_has_role", "pg_identify_object", "pg_identify_object_as_address",
    "pg_index_column_has_property", "pg_index_has_property", "pg_indexam_has_property",
    "pg_indexam_progress_phasename", "pg_lsn", "pg_lsn_larger", "pg_lsn_smaller", "pg_mcv_list_items",
    "pg_opclass_is_visible", "pg_operator_is_visible", "pg_opfamily_is_visible", "pg_options_to_table",
    "pg_partition_root", "pg_relation_filenode", "pg_relation_filepath", "pg_relation_is_publishable",
    "pg_relation_is_updatable", "pg_sequence_parameters", "pg_settings_get_flags", "pg_size_bytes",
    "pg_size_pretty", "pg_snapshot_xip", "pg_snapshot_xmax", "pg_snapshot_xmin", "pg_split_walfile_name",
    "pg_statistics_obj_is_visible", "pg_table_is_visible", "pg_timezone_abbrevs", "pg_timezone_abbrevs_abbrevs",
    "pg_timezone_abbrevs_zone", "pg_timezone_names", "pg_ts_config_is_visible", "pg_ts_dict_is_visible",
    "pg_ts_parser_is_visible", "pg_ts_template_is_visible", "pg_type_is_visible", "pg_typeof",
    "pg_visible_in_snapshot", "pg_wal_lsn_diff", "phraseto_tsquery", "pi", "plainto_tsquery", "point", "polygon",
    "popen", "position", "postgresql_fdw_validator", "pow", "power", "querytree", "quote_ident", "quote_literal",
    "quote_nullable", "radians", "radius", "range_agg", "range_intersect_agg", "range_intersect_agg_transfn",
    "range_merge", "rank", "record_larger", "record_smaller", "regclass", "regexp_count", "regexp_instr",
    "regexp_like", "regexp_match", "regexp_matches", "regexp_replace", "regexp_split_to_array",
    "regexp_split_to_table", "regexp_substr", "regr_avgx", "regr_avgy", "regr_count", "regr_intercept", "regr_r2",
    "regr_slope", "regr_sxx", "regr_sxy", "regr_syy", "repeat", "replace", "reverse", "right", "round",
    "row_number", "row_security_active", "row_to_json", "rpad", "rtrim", "satisfies_hash_partition", "scale",
    "session_user", "set_bit", "set_byte", "set_masklen", "setweight", "sha224", "sha256", "sha384", "sha512",
    "shobj_description", "sign", "similar_escape", "similar_to_escape", "sin", "sind", "sinh", "slope",
    "split_part", "sqrt", "starts_with", "statement_timestamp", "stddev", "stddev_pop", "stddev_samp", "string_agg",
    "string_to_array", "string_to_table", "strip", "strpos", "substr", "substring", "sum", "system_user", "tan",
    "tand", "tanh", "text", "text_larger", "text_smaller", "textcat", "textlen", "tidlarger", "tidsmaller", "time",
    "time_larger", "time_smaller", "timestamp", "timestamp_larger", "timestamp_smaller", "timestamptypmodin",
    "timestamptz", "timestamptz_larger", "timestamptz_smaller", "timestamptztypmodin", "timetypmodin", "timetz",
    "timetz_larger", "timetz_smaller", "timetztypmodin", "timezone", "to_ascii", "to_bin", "to_char", "to_date",
    "to_hex", "to_json", "to_jsonb", "to_number", "to_oct", "to_regclass", "to_regcollation", "to_regnamespace",
    "to_regoper", "to_regoperator", "to_regproc", "to_regprocedure", "to_regrole", "to_regtype", "to_regtypemod",
    "to_timestamp", "to_tsquery", "to_tsvector", "transaction_timestamp", "translate", "trim_array", "trim_scale",
    "trunc", "ts_debug", "ts_delete", "ts_filter", "ts_headline", "ts_lexize", "ts_parse", "ts_rank", "ts_rank_cd",
    "ts_token_type", "tsmultirange", "tsquery_phrase", "tsrange", "tsrange_subdiff", "tstzmultirange", "tstzrange",
    "tstzrange_subdiff", "tsvector_concat", "tsvector_to_array", "txid_snapshot_xip", "txid_snapshot_xmax",
    "txid_snapshot_xmin", "txid_visible_in_snapshot", "unicode_assigned", "unicode_version", "unistr", "unnest",
    "upper", "upper_inc", "upper_inf", "uuid_extract_timestamp", "uuid_extract_version", "var_pop", "var_samp",
    "varbit", "varbittypmodin", "varchar", "varchartypmodin", "variance", "version", "websearch_to_tsquery",
    "width", "width_bucket", "xid", "xid8_larger", "xid8_smaller", "xml", "xml_is_well_formed",
    "xml_is_well_formed_content", "xml_is_well_formed_document", "xmlagg", "xmlcomment", "xmlconcat2", "xmlexists",
    "xmltext", "xmlvalidate", "xpath", "xpath_exists",
];

/// Volatile only because two calls answer differently: nothing is written, and any server may answer.
#[rustfmt::skip]
pub(crate) static VOLATILE_BUT_HARMLESS: &[&str] = &[
    "array_sample", "array_shuffle", "clock_timestamp", "current_query", "gen_random_uuid",
    "pg_partition_ancestors", "pg_partition_tree", "pg_sleep", "pg_sleep_for", "pg_sleep_until", "random",
    "random_normal", "timeofday", "uuidv4", "uuidv7",
];

/// The helpers of `information_schema`, which drivers call too.
pub(crate) static INFORMATION_SCHEMA: &[&str] = &[
    "_pg_char_max_length",
    "_pg_char_octet_length",
    "_pg_datetime_precision",
    "_pg_expandarray",
    "_pg_index_position",
    "_pg_interval_type",
    "_pg_numeric_precision",
    "_pg_numeric_precision_radix",
    "_pg_numeric_scale",
    "_pg_truetypid",
    "_pg_truetypmod",
];

/// What one node, or one of its processes, says of itself. `pg_stat_*` belongs here too, by prefix.
#[rustfmt::skip]
pub(crate) static NODE_DEPENDENT: &[&str] = &[
    "inet_client_addr", "inet_client_port", "inet_server_addr", "inet_server_port",
    "pg_available_extension_versions", "pg_available_extensions", "pg_available_wal_summaries", "pg_backend_pid",
    "pg_blocking_pids", "pg_conf_load_time", "pg_config", "pg_control_checkpoint", "pg_control_init",
    "pg_control_recovery", "pg_control_system", "pg_current_logfile", "pg_current_snapshot",
    "pg_current_wal_flush_lsn", "pg_current_wal_insert_lsn", "pg_current_wal_lsn", "pg_cursor", "pg_database_size",
    "pg_extension_update_paths", "pg_get_aios", "pg_get_loaded_modules", "pg_get_replication_slots",
    "pg_get_sequence_data", "pg_get_shmem_allocations_numa", "pg_get_wal_replay_pause_state",
    "pg_get_wal_summarizer_state", "pg_hba_file_rules", "pg_indexes_size", "pg_is_in_recovery",
    "pg_is_other_temp_schema", "pg_is_wal_replay_paused", "pg_last_committed_xact", "pg_last_wal_receive_lsn",
    "pg_last_wal_replay_lsn", "pg_last_xact_replay_timestamp", "pg_listening_channels", "pg_lock_status",
    "pg_my_temp_schema", "pg_notification_queue_usage", "pg_numa_available", "pg_postmaster_start_time",
    "pg_prepared_statement", "pg_prepared_xact", "pg_relation_size", "pg_safe_snapshot_blocking_pids",
    "pg_sequence_last_value", "pg_show_all_file_settings", "pg_show_all_settings", "pg_table_size",
    "pg_tablespace_databases", "pg_tablespace_location", "pg_tablespace_size", "pg_total_relation_size",
    "pg_trigger_depth", "pg_wal_summary_contents", "pg_walfile_name", "pg_walfile_name_offset",
    "pg_xact_commit_timestamp", "txid_current_snapshot",
];

/// The functions that write, or leave something in the session, or might: known, and for the primary.
#[rustfmt::skip]
pub(crate) static VOLATILE: &[&str] = &[
    "brin_desummarize_range", "brin_summarize_new_values", "brin_summarize_range", "currtid2", "currval",
    "cursor_to_xml", "cursor_to_xmlschema", "database_to_xml", "database_to_xml_and_xmlschema",
    "database_to_xmlschema", "gin_clean_pending_list", "lastval", "lo_close", "lo_creat", "lo_create", "lo_export",
    "lo_from_bytea", "lo_get", "lo_import", "lo_lseek", "lo_lseek64", "lo_open", "lo_put", "lo_tell", "lo_tell64",
    "lo_truncate", "lo_truncate64", "lo_unlink", "loread", "lowrite", "nextval", "pg_advisory_lock",
    "pg_advisory_lock_shared", "pg_advisory_unlock", "pg_advisory_unlock_all", "pg_advisory_unlock_shared",
    "pg_advisory_xact_lock", "pg_advisory_xact_lock_shared", "pg_backup_start", "pg_backup_stop",
    "pg_cancel_backend", "pg_clear_attribute_stats", "pg_clear_relation_stats", "pg_collation_actual_version",
    "pg_copy_logical_replication_slot", "pg_copy_physical_replication_slot", "pg_create_logical_replication_slot",
    "pg_create_physical_replication_slot", "pg_create_restore_point", "pg_current_xact_id",
    "pg_current_xact_id_if_assigned", "pg_database_collation_actual_version", "pg_drop_replication_slot",
    "pg_export_snapshot", "pg_extension_config_dump", "pg_get_backend_memory_contexts", "pg_get_multixact_members",
    "pg_get_shmem_allocations", "pg_get_wal_resource_managers", "pg_ident_file_mappings",
    "pg_import_system_collations", "pg_isolation_test_session_is_blocked", "pg_jit_available",
    "pg_log_backend_memory_contexts", "pg_log_standby_snapshot", "pg_logical_emit_message",
    "pg_logical_slot_get_binary_changes", "pg_logical_slot_get_changes", "pg_logical_slot_peek_binary_changes",
    "pg_logical_slot_peek_changes", "pg_ls_archive_statusdir", "pg_ls_dir", "pg_ls_logdir", "pg_ls_logicalmapdir",
    "pg_ls_logicalsnapdir", "pg_ls_replslotdir", "pg_ls_summariesdir", "pg_ls_tmpdir", "pg_ls_waldir", "pg_nextoid",
    "pg_notify", "pg_promote", "pg_read_binary_file", "pg_read_file", "pg_read_file_old", "pg_reload_conf",
    "pg_replication_origin_advance", "pg_replication_origin_create", "pg_replication_origin_drop",
    "pg_replication_origin_progress", "pg_replication_origin_session_is_setup",
    "pg_replication_origin_session_progress", "pg_replication_origin_session_reset",
    "pg_replication_origin_session_setup", "pg_replication_origin_xact_reset", "pg_replication_origin_xact_setup",
    "pg_replication_slot_advance", "pg_restore_attribute_stats", "pg_restore_relation_stats", "pg_rotate_logfile",
    "pg_rotate_logfile_old", "pg_show_replication_origin_status", "pg_stop_making_pinned_objects", "pg_switch_wal",
    "pg_sync_replication_slots", "pg_terminate_backend", "pg_try_advisory_lock", "pg_try_advisory_lock_shared",
    "pg_try_advisory_xact_lock", "pg_try_advisory_xact_lock_shared", "pg_wal_replay_pause", "pg_wal_replay_resume",
    "pg_xact_commit_timestamp_origin", "pg_xact_status", "query_to_xml", "query_to_xml_and_xmlschema",
    "query_to_xmlschema", "schema_to_xml", "schema_to_xml_and_xmlschema", "schema_to_xmlschema", "set_config",
    "setseed", "setval", "table_to_xml", "table_to_xml_and_xmlschema", "table_to_xmlschema", "ts_rewrite",
    "ts_stat", "txid_current", "txid_current_if_assigned", "txid_status",
];

/// The settings that follow a session from server to server, or are the same on all servers of a cluster: context `user`,
/// `superuser`, `backend` and `superuser-backend` in `pg_settings`, without `transaction_read_only`, and a few `internal` ones.
#[rustfmt::skip]
pub(crate) static SESSION_SETTINGS: &[&str] = &[
    "allow_in_place_tablespaces", "allow_system_table_mods", "application_name", "array_nulls",
    "backend_flush_after", "backslash_quote", "backtrace_functions", "block_size", "bytea_output",
    "check_function_bodies", "client_connection_check_interval", "client_encoding", "client_min_messages",
    "commit_delay", "commit_siblings", "compute_query_id", "constraint_exclusion", "cpu_index_tuple_cost",
    "cpu_operator_cost", "cpu_tuple_cost", "cursor_tuple_fraction", "datestyle", "deadlock_timeout",
    "debug_discard_caches", "debug_pretty_print", "debug_print_parse", "debug_print_plan", "debug_print_rewritten",
    "default_statistics_target", "default_table_access_method", "default_tablespace", "default_text_search_config",
    "default_toast_compression", "default_transaction_deferrable", "default_transaction_isolation",
    "default_transaction_read_only", "dynamic_library_path", "effective_cache_size", "effective_io_concurrency",
    "enable_async_append", "enable_bitmapscan", "enable_gathermerge", "enable_hashagg", "enable_hashjoin",
    "enable_incremental_sort", "enable_indexonlyscan", "enable_indexscan", "enable_material", "enable_memoize",
    "enable_mergejoin", "enable_nestloop", "enable_parallel_append", "enable_parallel_hash",
    "enable_partition_pruning", "enable_partitionwise_aggregate", "enable_partitionwise_join", "enable_seqscan",
    "enable_sort", "enable_tidscan", "escape_string_warning", "exit_on_error", "extra_float_digits",
    "force_parallel_mode", "from_collapse_limit", "geqo", "geqo_effort", "geqo_generations", "geqo_pool_size",
    "geqo_seed", "geqo_selection_bias", "geqo_threshold", "gin_fuzzy_search_limit", "gin_pending_list_limit",
    "hash_mem_multiplier", "idle_in_transaction_session_timeout", "idle_session_timeout", "ignore_checksum_failure",
    "ignore_system_indexes", "integer_datetimes", "intervalstyle", "is_superuser", "jit", "jit_above_cost",
    "jit_debugging_support", "jit_dump_bitcode", "jit_expressions", "jit_inline_above_cost",
    "jit_optimize_above_cost", "jit_profiling_support", "jit_tuple_deforming", "join_collapse_limit", "lc_collate",
    "lc_ctype", "lc_messages", "lc_monetary", "lc_numeric", "lc_time", "lo_compat_privileges",
    "local_preload_libraries", "lock_timeout", "log_connections", "log_disconnections", "log_duration",
    "log_error_verbosity", "log_executor_stats", "log_lock_waits", "log_min_duration_sample",
    "log_min_duration_statement", "log_min_error_statement", "log_min_messages", "log_parameter_max_length",
    "log_parameter_max_length_on_error", "log_parser_stats", "log_planner_stats", "log_replication_commands",
    "log_statement", "log_statement_sample_rate", "log_statement_stats", "log_temp_files",
    "log_transaction_sample_rate", "logical_decoding_work_mem", "maintenance_io_concurrency",
    "maintenance_work_mem", "max_function_args", "max_identifier_length", "max_index_keys",
    "max_parallel_maintenance_workers", "max_parallel_workers", "max_parallel_workers_per_gather",
    "max_stack_depth", "min_parallel_index_scan_size", "min_parallel_table_scan_size",
    "parallel_leader_participation", "parallel_setup_cost", "parallel_tuple_cost", "password_encryption",
    "plan_cache_mode", "post_auth_delay", "quote_all_identifiers", "random_page_cost", "recursive_worktable_factor",
    "restrict_nonsystem_relation_kind", "role", "row_security", "search_path", "seed", "seq_page_cost",
    "server_encoding", "server_version", "server_version_num", "session_authorization", "session_preload_libraries",
    "session_replication_role", "standard_conforming_strings", "statement_timeout", "stats_fetch_consistency",
    "synchronize_seqscans", "synchronous_commit", "tcp_keepalives_count", "tcp_keepalives_idle",
    "tcp_keepalives_interval", "tcp_user_timeout", "temp_buffers", "temp_file_limit", "temp_tablespaces",
    "timezone", "timezone_abbreviations", "trace_notify", "trace_sort", "track_activities", "track_counts",
    "track_functions", "track_io_timing", "track_wal_io_timing", "transaction_deferrable", "transaction_isolation",
    "transform_null_equals", "update_process_title", "vacuum_cost_delay", "vacuum_cost_limit",
    "vacuum_cost_page_dirty", "vacuum_cost_page_hit", "vacuum_cost_page_miss", "vacuum_failsafe_age",
    "vacuum_freeze_min_age", "vacuum_freeze_table_age", "vacuum_multixact_failsafe_age",
    "vacuum_multixact_freeze_min_age", "vacuum_multixact_freeze_table_age", "wal_compression",
    "wal_consistency_checking", "wal_init_zero", "wal_recycle", "wal_sender_timeout", "wal_skip_threshold",
    "work_mem", "xmlbinary", "xmloption", "zero_damaged_pages",
];

#[rustfmt::skip]
/// Extensions of PostgreSQL's own and some that everybody has, whose functions marked STABLE only read: settings, dictionaries, their
/// arguments. Not among them are those that run a query that they are given (tablefunc, xml2, dblink).
pub(crate) const TRUSTED_EXTENSIONS: &[&str] = &[
    "btree_gin", "btree_gist", "citext", "cube", "earthdistance", "fuzzystrmatch", "hstore", "intarray", "isn", "ltree",
    "pg_trgm", "pgcrypto", "seg", "unaccent", "uuid-ossp", "vector",
];

/// Extension and function: marked immutable, and neither is. `isn_weak` sets what the session's later input is read by.
pub(crate) const MISDECLARED: &[(&str, &str)] = &[("isn", "isn_weak")];

/// What functions of extensions are called that leave something in the session.
pub(crate) const KEEPING_EXTENSIONS: &[&str] = &["dblink_connect", "dblink_connect_u", "isn_weak"];

/// Extensions whose volatile functions make something up, and touch nothing.
pub(crate) const PURE_EXTENSIONS: &[&str] = &["pgcrypto", "uuid-ossp"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted_and_disjoint() {
        let tables = [HARMLESS, VOLATILE_BUT_HARMLESS, NODE_DEPENDENT, VOLATILE, crate::operators::OPERATORS];
        for table in tables.iter().chain([&SESSION_SETTINGS]) {
            assert!(table.is_sorted_by(|left, right| left < right));
        }
        let mut all: Vec<&str> = tables.concat();
        all.sort_unstable();
        assert!(all.is_sorted_by(|left, right| left < right), "a function is in two tables");
    }
}
