import { PgSelectSingleStep, TYPES } from "@dataplan/pg";
import type { PgCodec, PgCodecAttribute, PgSelectQueryBuilder, PgSelectStep } from "@dataplan/pg";
import { access, lambda, type FieldArg, type Step } from "grafast";
import { gatherConfig } from "graphile-build";
import { sql, type SQL } from "pg-sql2";
import type {} from "postgraphile";
import type {} from "postgraphile-plugin-connection-filter";
import { extendSchema, gql } from "postgraphile/utils";
import {
  distanceSql,
  geoJson,
  geoPoint,
  isPointType,
  pointSql,
  withinBox,
  withinDistance,
  withinPolygon,
  type Position,
} from "./support/geometry.ts";

const filters = {
  withinDistance: {
    description: "Is at most this many metres from a position, as `distance` measures.",
    type: "GeoDistanceInput",
    resolve: withinDistance,
  },
  withinBox: {
    description: "Lies in a box of longitudes and latitudes, edges included.",
    type: "GeoBoxInput",
    resolve: withinBox,
  },
  withinPolygon: {
    description: "Lies in a polygon, edges included.",
    type: "GeoPolygonInput",
    resolve: withinPolygon,
  },
};

function pointColumn(codec: PgCodec): string | undefined {
  const attributes = Object.entries((codec.attributes ?? {}) as Record<string, PgCodecAttribute>);
  return attributes.find(([, attribute]) => attribute.codec === geoPoint)?.[0];
}

/** Returns a selectable row, which a row that a mutation has written is not. */
function selected($row: PgSelectSingleStep): PgSelectSingleStep {
  if ($row instanceof PgSelectSingleStep) return $row;
  const { resource } = $row as PgSelectSingleStep;
  const key = resource.uniques.find(({ isPrimary }) => isPrimary)!.attributes;
  return resource.get(
    Object.fromEntries(key.map((column) => [column, ($row as PgSelectSingleStep).get(column)])),
  );
}

/**
 * Orders by distance and key, as stable cursors need. An index finds the nearest rows by distance only, and before
 * PostgreSQL 17 the planner does not use it for this order; reading from an ordered subquery makes it do so.
 */
function orderByDistance($rows: PgSelectStep, column: string, $from: Step): void {
  const from = $rows.placeholder($from, geoPoint);
  const nearest = sql.identifier("nearest");
  // Private, without a public alternative.
  const source = $rows as unknown as { from: SQL };
  const table = source.from;
  source.from = sql`(
    select *, ${distanceSql(sql.identifier(column), from)} as ${nearest}
    from ${table}
    order by ${nearest}
  )`;
  // Omit rows without a distance: no index serves an order that includes them.
  $rows.where(sql`not public.st_isempty(${$rows.alias}.${sql.identifier(column)}) or ${from} is null`);
  $rows.orderBy({
    fragment: sql`${$rows.alias}.${nearest}`,
    codec: TYPES.float,
    direction: "ASC",
    // Distances are NULL if the given position is.
    nullable: true,
  });
  // Counts are cloned from here, and need no order.
  const clone = $rows.clone.bind($rows);
  $rows.clone = (mode) => Object.assign(clone(mode), mode === "aggregate" ? { from: table } : {});
}

/** Types of positions and of filters on them. */
export const PostgisTypesPlugin = extendSchema(
  {
    typeDefs: gql`
      """
      A position on the earth (WGS 84), shaped as a GeoJSON Point.
      """
      type GeoPoint {
        """
        Always \`Point\`.
        """
        type: String!
        """
        Longitude and latitude, in this order.
        """
        coordinates: [Float!]!
        """
        Longitude in degrees, -180 to 180.
        """
        longitude: Float!
        """
        Latitude in degrees, -90 to 90.
        """
        latitude: Float!
      }
      """
      A position on the earth (WGS 84).
      """
      input GeoPointInput {
        """
        Longitude in degrees, -180 to 180.
        """
        longitude: Float!
        """
        Latitude in degrees, -90 to 90.
        """
        latitude: Float!
      }
      """
      A circle on the earth.
      """
      input GeoDistanceInput {
        """
        Its centre.
        """
        of: GeoPointInput!
        """
        Its radius.
        """
        metres: Float!
      }
      """
      A box of longitudes and latitudes; it spans the antimeridian if west is greater than east.
      """
      input GeoBoxInput {
        """
        Western edge: a longitude in degrees.
        """
        west: Float!
        """
        Southern edge: a latitude in degrees.
        """
        south: Float!
        """
        Eastern edge: a longitude in degrees.
        """
        east: Float!
        """
        Northern edge: a latitude in degrees.
        """
        north: Float!
      }
      """
      A GeoJSON Polygon.
      """
      input GeoPolygonInput {
        """
        Always \`Polygon\`.
        """
        type: String! = "Polygon"
        """
        Its outer ring, then its holes; each a closed list of [longitude, latitude].
        """
        coordinates: [[[Float!]!]!]!
      }
    `,
    objects: {
      GeoPoint: {
        plans: {
          type: ($point) => access($point, "type"),
          coordinates: ($point) => access($point, "coordinates"),
          longitude: ($point) => access($point, ["coordinates", 0]),
          latitude: ($point) => access($point, ["coordinates", 1]),
        },
      },
    },
  },
  "PostgisTypesPlugin",
);

/** Shows PostGIS points as GeoJSON, with filters and orders by place that GiST indexes serve. */
export const PostgisPlugin: GraphileConfig.Plugin = {
  name: "PostgisPlugin",
  version: "1.0.0",
  before: ["PgConnectionArgOrderByPlugin"],
  gather: gatherConfig({
    hooks: {
      pgCodecs_findPgCodec(_info, event) {
        if (!event.pgCodec && /^geo(metry|graphy)$/.test(event.pgType.typname)) event.pgCodec = geoJson;
      },
      // Codecs belong to types; whether a geometry is a point depends on each column's modifier.
      pgCodecs_attribute(_info, { attribute, pgAttribute }) {
        const isGeometry = pgAttribute.getType()?.typname === "geometry";
        if (isGeometry && isPointType(pgAttribute.atttypmod)) attribute.codec = geoPoint;
      },
    },
  }),
  schema: {
    hooks: {
      init(_, build) {
        build.setGraphQLTypeForPgCodec(geoPoint, "output", "GeoPoint");
        build.setGraphQLTypeForPgCodec(geoPoint, "input", "GeoPointInput");
        build.registerScalarType(
          "GeoJSON",
          {},
          () => ({ description: "A geometry as GeoJSON; longitudes and latitudes (WGS 84)." }),
          "PostgisPlugin",
        );
        build.setGraphQLTypeForPgCodec(geoJson, ["output", "input"], "GeoJSON");
        for (const [name, { description, type, resolve }] of Object.entries(filters)) {
          build.addConnectionFilterOperator("GeoPoint", name, {
            description,
            resolveType: () => build.getInputTypeByName(type),
            resolveSqlValue: () => sql.null,
            resolve: (column, _value, given) => resolve(column, given as never),
          });
        }
        return _;
      },

      GraphQLInputObjectType_fields(fields, build, { Self }) {
        if (Self.name !== build.inflection.filterType("GeoPoint")) return fields;
        const offered = ["isNull", ...Object.keys(filters)];
        return Object.fromEntries(Object.entries(fields).filter(([name]) => offered.includes(name)));
      },

      GraphQLObjectType_fields(fields, build, { scope: { pgCodec, isPgClassType }, fieldWithHooks }) {
        const column = isPgClassType && pgCodec && pointColumn(pgCodec);
        if (!column) return fields;
        const distance = fieldWithHooks(
          { fieldName: "distance" },
          {
            type: build.graphql.GraphQLFloat,
            description: `Metres between \`${column}\` and another position, on a sphere; within 0.6 % of the distance on the ellipsoid.`,
            args: {
              from: {
                type: new build.graphql.GraphQLNonNull(build.getInputTypeByName("GeoPointInput")),
                description: "The other position.",
              },
            },
            plan($row: PgSelectSingleStep, args) {
              // Applied at execution: a placeholder cannot be added beside totalCount, which locks the plan.
              const $selected = selected($row);
              const $rows = $selected.getClassStep();
              const $from = args.getRaw("from");
              const index = `distance-${$from.id}`;
              const select = (from: unknown) => (query: PgSelectQueryBuilder) => {
                const position = sql`${query.alias}.${sql.identifier(column)}`;
                const metres = sql`${distanceSql(position, pointSql(from as Position))}::text`;
                query.setMeta(index, query.selectAndReturnIndex(metres));
              };
              $rows.withLayerPlan(() => $rows.apply(lambda($from, select)));
              return lambda([$selected, $rows.getMeta(index)], ([row, at]) => {
                const metres = (row as (string | null)[] | null)?.[at as number];
                return metres == null ? null : Number(metres);
              });
            },
          },
        );
        return build.extend(fields, { distance }, "PostgisPlugin");
      },

      GraphQLObjectType_fields_field_args(args, build, { scope: { isPgFieldConnection, pgFieldResource } }) {
        const column = isPgFieldConnection && pgFieldResource && pointColumn(pgFieldResource.codec);
        if (!column) return args;
        const nearestTo = {
          type: build.getInputTypeByName("GeoPointInput"),
          description: `Read only rows with a \`${column}\`, ordered by \`distance\` from this position, nearest first; \`orderBy\` orders rows of equal distance.`,
          // Planned rather than applied, to come before the default of orderBy.
          applyPlan(_$parent: unknown, $connection: { getSubplan(): PgSelectStep }, arg: FieldArg) {
            orderByDistance($connection.getSubplan(), column, arg.getRaw());
          },
        };
        return build.extend(args, { nearestTo }, "PostgisPlugin");
      },
    },
  },
};
