import { gatherConfig } from "graphile-build";
import type { AclObject, Introspection, PgAttribute, PgClass } from "graphile-build-pg/pg-introspection";
import type {} from "postgraphile";
import { addBehavior, columnsOf, isRelation } from "./support/tags.ts";

const STRATA_ROLES = ["strata_reader", "strata_ingestor", "strata_operator"];

/** Finds Strata's roles, their members, and the roles of those, without the server's login, which owns everything. */
function rolesOf({ roles, auth_members, current_user }: Introspection): Set<string> {
  const found = new Map(
    roles
      .filter(
        ({ rolsuper, rolname }) => STRATA_ROLES.includes(rolname) || !(rolsuper || rolname === current_user),
      )
      .map(({ _id, rolname }) => [_id, rolname]),
  );
  const reached = new Set(
    roles.filter(({ rolname }) => STRATA_ROLES.includes(rolname)).map(({ _id }) => _id),
  );
  const follow = (from: "roleid" | "member", to: "roleid" | "member"): void => {
    for (let size = 0; size !== reached.size;) {
      size = reached.size;
      for (const edge of auth_members)
        if (reached.has(edge[from]) && found.has(edge[to])) reached.add(edge[to]);
    }
  };
  follow("roleid", "member");
  follow("member", "roleid");
  return new Set([...reached].flatMap((id) => found.get(id) ?? []));
}

/** Columns on a row's origin in staging, which clients do not need. */
const PROVENANCE = ["source_seq", "strata_source"];

type Right = "select" | "insert" | "update" | "delete" | "execute";

/** Finds columns whose default is a sequence that they own, as `serial` makes. */
function sequencedColumns({ depends, classes }: Introspection): Set<PgAttribute> {
  const byId = new Map(classes.map((entry) => [entry._id, entry]));
  return new Set(
    depends.flatMap(({ objid, refobjid, refobjsubid, deptype }) => {
      if (deptype !== "a" || byId.get(objid)?.relkind !== "S" || !refobjsubid) return [];
      return byId.get(refobjid)?.getAttribute({ number: refobjsubid }) ?? [];
    }),
  );
}

/**
 * Shows in the API what any of its roles was granted; what a request may do, PostgreSQL decides under its role.
 * Rights of PUBLIC do not count, since functions have them by default.
 */
export const RightsPlugin: GraphileConfig.Plugin = {
  name: "RightsPlugin",
  version: "1.0.0",
  after: ["TagFilesPlugin"],
  before: ["smart-tags"],
  gather: gatherConfig({
    hooks: {
      pgIntrospection_introspection({ resolvedPreset }, { introspection, serviceName }) {
        const { schemas = [] } = resolvedPreset.pgServices!.find(({ name }) => name === serviceName)!;
        const roles = rolesOf(introspection);
        const sequenced = sequencedColumns(introspection);
        const isGranted = (
          entity: { getACL(): readonly AclObject[] },
          owner: string | undefined,
          right: Right,
        ) => entity.getACL().some((acl) => acl[right] && acl.role !== owner && roles.has(acl.role));

        const expose = (relation: PgClass): void => {
          const owner = relation.getOwner()?.rolname;
          const columns = columnsOf(relation);
          const isGrantedOn = (column: PgAttribute, right: Right) =>
            isGranted(relation, owner, right) || isGranted(column, owner, right);
          const readable = columns.filter((column) => isGrantedOn(column, "select"));
          if (readable.length === 0) return addBehavior(relation, "-*");
          // Clients may not set columns that a sequence or an expression computes, nor a row's origin.
          const inputs = columns.filter(
            (column) =>
              !column.attgenerated &&
              !column.attidentity &&
              !sequenced.has(column) &&
              !PROVENANCE.includes(column.attname),
          );
          for (const right of ["insert", "update"] as const) {
            const writable = inputs.filter((column) => isGrantedOn(column, right));
            if (writable.length === 0) addBehavior(relation, `-${right}`);
            for (const column of columns)
              addBehavior(column, `${writable.includes(column) ? "+" : "-"}attribute:${right}`);
          }
          if (!isGranted(relation, owner, "delete")) addBehavior(relation, "-delete");
          for (const column of columns)
            if (!readable.includes(column) || PROVENANCE.includes(column.attname)) addBehavior(column, "-*");
        };
        for (const relation of introspection.classes) if (isRelation(relation, schemas)) expose(relation);

        const { procs } = introspection;
        const isOurs = (schema: string | undefined) => schema !== undefined && schemas.includes(schema);
        const kept = procs.filter(
          (proc) =>
            !isOurs(proc.getNamespace()?.nspname) ||
            (proc.prokind === "f" && isGranted(proc, proc.getOwner()?.rolname, "execute")),
        );
        procs.splice(0, procs.length, ...kept);
      },
    },
  }),
};
