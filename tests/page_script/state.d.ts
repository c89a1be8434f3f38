// What proxy/operations/overview.py and page.py send, for checking the page's script. Times are Unix seconds.

type Cause = "client" | "proxy" | "identity" | "gateway" | "api";
type QuantileName = "p50" | "p95" | "p99";

interface ProblemState {
  readonly key: string;
  readonly severity: "bad" | "warn" | "note";
  readonly what: string;
  readonly step: string;
  readonly detail: string;
  readonly code: string;
  readonly by: Cause | null;
  readonly since_at: number | null;
  readonly until_at: number | null;
}

interface SampleState {
  readonly at: number;
  readonly seconds: number;
  readonly classes: Readonly<Record<string, number>>;
  readonly p50_ms: number | null;
  readonly p95_ms: number | null;
  readonly p99_ms: number | null;
}

interface TokenLife {
  readonly obtained_at: number;
  readonly refresh_at: number;
  readonly usable_until_at: number;
  readonly expires_at: number;
  readonly replaced_at: number | null;
}

interface TokenState {
  readonly credential: string;
  readonly target: string;
  readonly usable: boolean;
  readonly age_s: number | null;
  readonly refresh_in_s: number | null;
  readonly usable_for_s: number | null;
  readonly expires_in_s: number | null;
  readonly failures: number;
  readonly rejections: number;
  readonly code: string;
  readonly detail: string;
  readonly without_s: number | null;
  readonly retry_in_s: number;
  readonly proof: string;
  readonly lives: readonly TokenLife[];
  readonly outages: readonly { readonly since_at: number; readonly until_at: number | null }[];
  readonly cause: string | null;
  readonly fix: string | null;
}

interface ActivityState {
  readonly count: number;
  readonly failures: Readonly<Partial<Record<Cause, number>>>;
  readonly statuses: Readonly<Record<string, number>>;
  readonly p50_ms: number | null;
  readonly p95_ms: number | null;
  readonly upstream_p50_ms: number | null;
}

interface RouteState {
  readonly name: string;
  readonly hosts: readonly string[];
  readonly credential: string | null;
  readonly target: string | null;
  readonly counts: Readonly<Record<string, number>>;
  readonly recent: ActivityState;
}

interface ClientState {
  readonly name: string;
  readonly configured: boolean;
  readonly known_by: readonly string[];
  readonly may_use: readonly string[];
  readonly address: string | null;
  readonly count: number;
  readonly failed: number;
  readonly at: number | null;
  readonly identities: Readonly<Record<string, number>>;
  readonly routes: Readonly<Record<string, number>>;
}

interface CertificateState {
  readonly kind: string;
  readonly name: string;
  readonly proof: string;
  readonly not_before_at: number | null;
  readonly not_after_at: number;
  readonly days_left: number;
}

interface ErrorState {
  readonly at: number;
  readonly count: number;
  readonly status: number;
  readonly error: string;
  readonly code: string;
  readonly by: Cause | null;
  readonly client: string;
  readonly method: string;
  readonly what: string;
  readonly title: string;
  readonly cause: string | null;
  readonly fix: string | null;
}

interface ProxyState {
  readonly version: string;
  readonly at: number;
  readonly started_at: number;
  readonly ready: boolean;
  readonly missing: readonly string[];
  readonly problems: readonly ProblemState[];
  readonly workers: number;
  readonly open: { readonly clients: number; readonly upstreams: number; readonly tunnels: number };
  readonly routes: readonly RouteState[];
  readonly tokens: readonly TokenState[];
  readonly sharing: { readonly shared: boolean; readonly alone_since_at: number | null; readonly reason: string } | null;
  readonly certificates: readonly CertificateState[];
  readonly samples: readonly SampleState[];
  readonly errors: readonly ErrorState[];
  readonly clients: readonly ClientState[];
}

/** A line of the access log as JSON, and what the page adds. */
interface ExchangeState {
  readonly time: string;
  readonly client: string;
  readonly mode: string;
  readonly method: string | null;
  readonly authority: string | null;
  readonly path: string | null;
  readonly status: number | null;
  readonly received_bytes: number;
  readonly sent_bytes: number;
  readonly duration_ms: number;
  readonly upstream_ms: number | null;
  readonly name_ms: number | null;
  readonly route: string | null;
  readonly token_age_s: number | null;
  readonly reused: boolean;
  readonly outcome: string;
  readonly code: string | null;
  readonly client_name: string | null;
  readonly credential: string | null;
  readonly proof: string | null;
  readonly http_version?: string | null;
  readonly upstream_http_version?: string | null;
  readonly by?: Cause;
  readonly explain?: string | null;
  readonly title?: string;
  readonly cause?: string | null;
  readonly fix?: string | null;
  /** Where tracing is on: when each step began, and how long it took. */
  readonly steps?: {
    readonly name: readonly [number, number] | null;
    readonly token: readonly [number, number] | null;
    readonly sent_ms: number | null;
    readonly sends: number;
  };
}
